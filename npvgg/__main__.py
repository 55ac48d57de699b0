"""`python -m npvgg` is the command line."""

from npvgg.cli.process import main

main()
