"""`python -m npvgg` is the command line."""

import sys

from npvgg.cli.main import main

sys.exit(main())
