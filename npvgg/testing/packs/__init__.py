"""The conformance pack: a folder that holds all that another implementation needs."""
