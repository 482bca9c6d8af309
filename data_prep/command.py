"""What the commands of the preparation share: how they tell bad input, failures and interruptions."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from ssljax.errors import InputError

_GO_ON = "what is finished stays: run the same command again to go on"


class Parser(argparse.ArgumentParser):
    """Raises InputError for arguments that it does not understand."""

    def error(self, message: str) -> NoReturn:
        """See argparse."""
        raise InputError(f"{message} (see --help)")


def call(command: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None) -> int:
    """Run a command; returns its exit code (2 for bad input, told in one line on standard error)."""
    try:
        command(argv)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}; {_GO_ON}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped; {_GO_ON}", file=sys.stderr)
        return 130
    return 0
