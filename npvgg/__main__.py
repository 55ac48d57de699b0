"""`python -m npvgg` is the command line."""

import sys

from npvgg.cli import main

sys.exit(main())
