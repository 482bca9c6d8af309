"""How the processes of a run find each other, and how one of them ends."""

from __future__ import annotations

import functools
import os
import sys
import traceback

import jax

from ssljax.errors import InputError, Stalled, is_lasting

_HEARTBEAT_SECONDS = 30  # a peer that says nothing for so long is dead, and everybody ends
_START_SECONDS = 300


def join(coordinator: str | None, processes: int | None, process: int | None, *, detect: bool) -> bool:
    """Join the other processes of the run, before anything touches a device; return whether there may be any.

    Args:
        coordinator: HOST:PORT of the first process, if they are named one by one.
        processes: How many there are.
        process: The number of this one.
        detect: Whether JAX finds them out from the engine that started them (Slurm, TPU pods, Kubernetes, Open MPI).

    Raises:
        InputError: Some of the three are missing, or the engine says nothing.
    """
    given = [coordinator, processes, process]
    initialize = functools.partial(
        jax.distributed.initialize,
        heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        initialization_timeout=_START_SECONDS,
    )
    if any(value is not None for value in given):
        if any(value is None for value in given):
            raise InputError("--coordinator, --processes and --process go together; give all three, or --distributed.")
        initialize(coordinator, processes, process, cluster_detection_method="deactivate")
    elif detect:
        try:
            initialize()
        except ValueError as error:  # nothing was detected
            raise InputError(
                f"--distributed finds no engine that says which processes there are ({error}); start it by Slurm, on a "
                "TPU pod or in Kubernetes, or give --coordinator, --processes and --process."
            ) from error
    return detect or coordinator is not None


def end_at_once(error: BaseException) -> None:
    """End this process now, with the exit code and the message of an error.

    A normal exit would wait for the other processes, which wait for this one, until one gives the others up; and it
    would wait for threads that read data which never comes. The others see this one's end within a second or so.
    """
    if isinstance(error, InputError):
        print(f"ssljax: {error}", file=sys.stderr)
        code = error.code if isinstance(error, Stalled) else 2
    elif isinstance(error, OSError) and is_lasting(error):
        print(f"ssljax: {error}; mend that and run the same command again.", file=sys.stderr)
        code = 2
    elif isinstance(error, SystemExit) and isinstance(error.code, int):
        code = error.code
    elif isinstance(error, KeyboardInterrupt):
        print("ssljax: interrupted.", file=sys.stderr)
        code = 130
    else:
        traceback.print_exception(error)
        if jax.process_count() > 1:  # a peer's end shows as an error of whatever was to be done together with it
            print("ssljax: or another process of the run has ended, and its log says why.", file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
