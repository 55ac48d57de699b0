"""The command line: one module per family of commands, and what they share."""
