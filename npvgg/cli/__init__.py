"""The command line: one module per family of commands, and what they share.

It may import everything but `__main__`; nothing imports it. A command is a function from parsed
arguments (`commands.parser`) to an exit status. It hands arguments to the library and writes what
comes back; whatever somebody may want from Python belongs below, in a function with keywords.

What must not be broken here: results go to standard output, or whole into a file, and every word to
standard error, by the logger "npvgg"; text of files and names of files reach a terminal escaped
(`formats.untrusted`); no argument vanishes without a row or a word.
"""

NO_MEMORY = ("failed to map segment", "Cannot allocate memory", "cannot allocate memory")
"""What the system's loader says of a library for which there is no memory."""


def lacks_memory(error: BaseException) -> bool:
    """Return whether something failed because the process may not have more memory."""
    if isinstance(error, ImportError):
        return any(words in str(error) for words in NO_MEMORY)
    return isinstance(error, MemoryError)


OK = 0
"""Exit status: done, and nothing is wrong."""
