"""What made a run: the command, the code as it was, and the packages under it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import ssljax
from ssljax.errors import InputError

PACKAGES = (
    "jax",
    "jaxlib",
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
    "libtpu",
    "flax",
    "optax",
    "numpy",
    "ml_collections",
    "orbax-checkpoint",
    "grain",
    "array_record",
    "simplejpeg",
    "opencv-python-headless",
    "pillow",
    "av",
)
"""What decides, beside ssljax itself, what a run computes or reads; those that are installed are recorded."""

_ROOT = Path(ssljax.__file__).resolve().parents[1]
_ENTRIES = ("ssljax", "cli.py")  # of the installed script, of python -m ssljax.cli


def program(workdir: Path, root: Path = _ROOT) -> dict[str, Any]:
    """Return what runs here, and write how the code differs from its commit to `source/` in the run's folder.

    The keys are `command` (words), `commit` (None where the package is in no git repository, such as an installed
    one), `dirty` (None, or the file of the differences, relative to the folder), `packages` (versions by name),
    `python` and `platform`. The file is a patch of tracked and new Python files for `git apply`, and begins with the
    names of other files that git neither knows nor ignores.

    Args:
        workdir: Of the run.
        root: The folder that the package is in.
    """
    commit = _commit(root)
    versions = {"ssljax": ssljax.__version__}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "command": _command(),
        "commit": commit,
        "dirty": _write_differences(workdir, root, commit) if commit else None,
        "packages": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def differences(there: Sequence[Mapping[str, Any]], here: Mapping[str, Any]) -> list[str]:
    """Return in what the starts of two runs differ that may change what they compute, a sentence each.

    Args:
        there: What all starts of one run noted.
        here: What the other's did.
    """
    known = [line for line in there if "command" in line]
    if not known:
        return ["by what commit and packages that was made is not recorded"]
    pairs = {
        "commit": ([line["commit"] for line in known], here["commit"]),
        "changes to the commit": ([line["dirty"] for line in known], here["dirty"]),
        "python": ([line["python"] for line in known], here["python"]),
        "platform": ([line["platform"] for line in known], here["platform"]),
        "devices": ([_devices(line) for line in known], _devices(here)),
    }
    for name in dict.fromkeys(name for line in [*known, here] for name in line["packages"]):
        pairs[name] = [line["packages"].get(name) for line in known], here["packages"].get(name)
    return [
        f"{name}: {', then '.join(dict.fromkeys(str(value or 'none') for value in before))} there, {now or 'none'} here"
        for name, (before, now) in pairs.items()
        if set(before) != {now}
    ]


def _devices(line: Mapping[str, Any]) -> str:
    mesh = ", ".join(f"{name}={size}" for name, size in line["mesh"].items())
    return f"{line['devices']} × {line['kind']} ({mesh or 'no mesh'}; {line['processes']} processes)"


def _command() -> list[str]:
    """Return the words that started this, those of a program of the user's own with its interpreter."""
    return ["ssljax", *sys.argv[1:]] if Path(sys.argv[0]).name in _ENTRIES else list(sys.orig_argv)


def _commit(root: Path) -> str | None:
    """Return the commit of the repository that the package belongs to, not of one that it is only installed in."""
    try:
        _ask(root, "ls-files", "--error-unmatch", "ssljax/__init__.py")
        return _ask(root, "rev-parse", "HEAD").decode().strip()
    except (FileNotFoundError, InputError):
        return None


def _write_differences(workdir: Path, root: Path, commit: str) -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        objects = root / os.fsdecode(_ask(root, "rev-parse", "--git-path", "objects")).removesuffix("\n")
        index = {  # the user's own stay as they are, and may be read-only
            "GIT_INDEX_FILE": f"{folder}/index",
            "GIT_OBJECT_DIRECTORY": folder,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": json.dumps(str(objects), ensure_ascii=False),  # may have a colon
        }
        _ask(root, "read-tree", "HEAD", **index)
        _ask(root, "add", "--intent-to-add", "--", ":/*.py", **index)
        others = _ask(root, "ls-files", "--others", "--exclude-standard", "--directory", ":/", **index)
        patch = _ask(root, "diff", "--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--no-relative",
                     "--src-prefix=a/", "--dst-prefix=b/", "HEAD", **index)  # fmt: skip
    if not patch:
        return None
    name = f"source/{commit[:12]}-{hashlib.sha256(patch).hexdigest()[:12]}.diff"
    path = workdir / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(b"# neither known nor ignored: %s\n" % line for line in others.splitlines()) + patch)
    return name


def _ask(root: Path, *words: str, **environment: str) -> bytes:
    """Return what git prints.

    Raises:
        FileNotFoundError: There is no git.
        InputError: It fails.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-c", "safe.directory=*", "-C", str(root), *words]  # a container's user may own nothing
    done = subprocess.run(command, env=inherited | environment, capture_output=True, check=False)
    if done.returncode:
        reason = " ".join(done.stderr.decode(errors="replace").split())
        raise InputError(f"What {root} differs in from its commit cannot be recorded (git {words[0]}: {reason}).")
    return done.stdout
