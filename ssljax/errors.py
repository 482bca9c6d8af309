"""Which errors mean that what the user gave cannot be used as it is, and which that the same command may succeed."""

import errno
from collections.abc import Iterator

STOPPED = 75
"""Exit code of a run that was asked to stop and has saved: EX_TEMPFAIL of sysexits.h, "try again"."""


class InputError(ValueError):
    """Bad input, told in one sentence that names the file, key or value and what to do.

    The command line prints the sentence and exits with code 2; a program may catch it as a ValueError.
    """


class Stalled(InputError):
    """Data that do not come, although nothing says that they are bad: the same command may succeed later.

    A thread still waits for them, which nothing can interrupt, so the command line ends at once.

    Attributes:
        code: The exit code: another than 1 where the run ended for another reason.
    """

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


_LASTING = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "ENOENT", "ENOTDIR", "EISDIR", "EEXIST", "EFBIG")
}


def is_lasting(error: OSError) -> bool:
    """Return whether the same command would fail again: a full disk, a folder that may not be written, a missing file.

    A network's folder that hangs or a broken connection is not.
    """
    return error.errno in _LASTING


def is_of_a_peer(error: BaseException) -> bool:
    """Return whether an error of one of several processes may come from the end of another one.

    That shows as an error of whatever was to be done together, of many types; only the operating system's own errors,
    which TensorStore gives by their number in its text, are surely this process's.
    """
    of_the_system = (
        "os_error_code" in str(one) or (isinstance(one, OSError) and one.errno is not None and is_lasting(one))
        for one in _chain(error)
    )
    return not any(of_the_system)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
