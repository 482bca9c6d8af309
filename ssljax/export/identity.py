"""What `config.init_from` named when a run began, to be recognised when the run is done again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ssljax import verification
from ssljax.export.files import FOLDER_WEIGHTS, INDEX

_BESIDE = ("config.json", "preprocessor_config.json")


def identify(place: str) -> dict[str, Any]:
    """Return the path of weights that were read, and their SHA-256; of a run also the step of its checkpoint.

    The checksum is a file's own, that of a checkpoint of its files' checksums, and that of a folder of weights of
    those of the files that are read.

    Args:
        place: A file or folder of weights, or another run's folder, see `initial.read_start`.
    """
    path = Path(place)
    directory = path / "checkpoints"
    if directory.is_dir():
        steps = reversed(verification.steps_in(directory))
        step = next(step for step in steps if verification.fault(directory / str(step)) is None)
        return {"path": place, "step": step, "sha256": verification.digest(directory / str(step))}
    sums = {file.name: _sha256(file) for file in _files(path)}
    whole = hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()
    return {"path": place, "sha256": sums.get(path.name, whole) if len(sums) == 1 else whole}


def _files(path: Path) -> list[Path]:
    """Return the files that are read of a file or folder of weights."""
    beside = [path / name for name in _BESIDE if (path / name).is_file()]
    if path.is_dir():
        path = next(path / name for name in FOLDER_WEIGHTS if (path / name).is_file())
    shards = json.loads(path.read_text())["weight_map"].values() if path.name.endswith(INDEX) else ()
    return [*beside, path, *(path.parent / name for name in sorted(set(shards)))]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
