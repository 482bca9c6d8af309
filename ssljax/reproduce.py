"""The config of a run that is to be done again elsewhere, from what its folder says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from ssljax import configuration
from ssljax.errors import InputError

PLACES = ("data.video", "data.data", "data.data_dir")
"""Keys of where data lie; that they are the same data is checked when they are opened."""


def read_config(workdir: Path, overrides: Sequence[str] = ()) -> ConfigDict:
    """Return the config of a run, with overrides that change where data lie and how it runs, not what it computes.

    Args:
        workdir: Of the run.
        overrides: Arguments of the form `--config.a.b=value`, for keys below `configuration.RESUMABLE` and `PLACES`.

    Raises:
        InputError: The folder holds no trained run, or an override does not fit or would make it another run.
    """
    path = workdir / "config.json"
    runs = [str(found.parent) for found in sorted(workdir.glob("*/seed-*/config.json"))]
    if runs and not path.exists():
        more = f" or {len(runs) - 5} more" * (len(runs) > 5)
        raise InputError(f"{workdir} is the folder of a sweep; name one of its runs: {', '.join(runs[:5])}{more}.")
    try:
        stored = json.loads(path.read_text())
        name = stored["objective"]["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error!r}); give the --workdir of a run that was trained.") from error
    if name == "imported":
        raise InputError(f"{workdir} holds imported weights, which no training here made; give a run that was trained.")
    for override in overrides:
        key = override.removeprefix("--config.").partition("=")[0]
        if key.partition(".")[0] not in configuration.RESUMABLE and key not in PLACES:
            raise InputError(
                f"{override} would not reproduce {workdir}; to train with another {key}, name a config with --config."
            )
    return configuration.override(configuration.from_stored(stored), overrides, str(path))
