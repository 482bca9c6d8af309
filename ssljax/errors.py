"""The one exception that means: what the user gave cannot be used as it is."""


class InputError(ValueError):
    """Bad input, told in one sentence that names the file, key or value and what to do.

    The command line prints the sentence and exits with code 2; a program may catch it as a ValueError.
    """
