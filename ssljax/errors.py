"""The one exception that means: what the user gave cannot be used as it is."""


class InputError(ValueError):
    """Bad input, told in one sentence that names the file, key or value and what to do.

    The command line prints the sentence and exits with code 2; a program may catch it as a ValueError.
    """


class Stalled(InputError):
    """Data that do not come, although nothing says that they are bad: the same command may succeed later.

    A thread still waits for them, which nothing can interrupt, so the command line ends at once, with code 1.
    """
