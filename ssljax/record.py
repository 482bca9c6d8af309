"""What made a run: the command, the code as it was, and the packages under it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
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
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
    "nvidia-cublas-cu12",
    "nvidia-cublas",
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

ENVIRONMENT = (
    "XLA_FLAGS",
    "LIBTPU_INIT_ARGS",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_ENABLE_X64",
    "JAX_DEFAULT_PRNG_IMPL",
)
"""Variables that decide what is computed; they are recorded where they are set, and no others."""

_ROOT = Path(ssljax.__file__).resolve().parents[1]
_FOLDERS = ("ssljax", "configs", "data_prep")
_SECRET = re.compile(r"(token|key|secret|password|\b(setup|teardown))=", re.IGNORECASE)
_SECRET_FLAG = re.compile(r"-[\w-]*(token|key|secret|password)", re.IGNORECASE)  # its value is the next word


def program(workdir: Path, root: Path = _ROOT) -> dict[str, Any]:
    """Return what runs here, and write how the code differs from its commit to `source/` in the run's folder.

    The keys are `command` (words), `commit` (None where the package is in no git repository, such as an installed
    one), `dirty` (None, or the file of the differences, relative to the folder), `packages` (versions by name),
    `python`, `platform`, `cores` (how many this process may use) and `environment` (see `ENVIRONMENT`). The file is a
    patch for `git apply` of tracked files and of new Python files that belong to the package or were imported; it
    begins with the names of other files that git neither knows nor ignores.

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
        "dirty": _differences(workdir, root, commit) if commit else None,
        "packages": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
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
    weights = [line["init_from"] for line in known if "init_from" in line]  # noted where a run begins
    if "init_from" in here:
        known_weights = [_weights(each) for each in weights] or ["not recorded"]
        pairs["weights that init_from names"] = known_weights, _weights(here["init_from"])
    noted = [line for line in known if "cores" in line]  # earlier versions did not note these
    for name in ENVIRONMENT if noted else ():
        pairs[name] = [line["environment"].get(name) for line in noted], here["environment"].get(name)
    if noted and here["kind"] == "cpu":  # its sums are split over the cores
        pairs["cores"] = [line["cores"] for line in noted], here["cores"]
    return [
        f"{name}: {', then '.join(dict.fromkeys(str(value or 'none') for value in before))} there, {now or 'none'} here"
        for name, (before, now) in pairs.items()
        if set(before) != {now}
    ]


def without_secrets(words: Sequence[str]) -> list[str]:
    """Return the words of a command with "…" for what may be secret.

    That is Slurm's `setup=` and `teardown=`, shell commands, and the value of anything called a token, key, secret or
    password. What `--config.KEY` gives stays: it is in the run's config as well.
    """
    shown: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        if _SECRET_FLAG.fullmatch(before):
            shown.append("…")
        elif _SECRET.search(word) and not word.startswith("--config."):
            shown.append(f"{word.partition('=')[0]}=…")
        else:
            shown.append(word)
    return shown


def _weights(named: Mapping[str, Any]) -> str:
    """Return what tells weights from others, wherever they lie."""
    step = f"step {named['step']}, " if "step" in named else ""
    return f"{step}SHA-256 {named['sha256'][:16]}"


def _devices(line: Mapping[str, Any]) -> str:
    mesh = ", ".join(f"{name}={size}" for name, size in line["mesh"].items())
    return f"{line['devices']} × {line['kind']} ({mesh or 'no mesh'}; {line['processes']} processes)"


def _command() -> list[str]:
    """Return the words that started this, those of a program of the user's own with its interpreter."""
    entry = Path(sys.argv[0])  # the installed script, or the module of python -m ssljax.cli
    ours = entry.name == "ssljax" or entry.resolve() == _ROOT / "ssljax" / "cli.py"
    return without_secrets(["ssljax", *sys.argv[1:]] if ours else sys.orig_argv)


def _commit(root: Path) -> str | None:
    """Return the commit of the repository that the package belongs to, not of one that it is only installed in."""
    try:
        _ask(root, "ls-files", "--error-unmatch", "ssljax/__init__.py")
        return _ask(root, "rev-parse", "HEAD").decode().strip()
    except (FileNotFoundError, InputError):
        return None


def _differences(workdir: Path, root: Path, commit: str) -> str | None:
    """Return the file that was written, None without differences; training goes on where they cannot be told."""
    try:
        return _write_differences(workdir, root, commit)
    except (InputError, OSError) as error:
        print(f"warning: {error} The run goes on.", file=sys.stderr)
        return "unknown files"


def _write_differences(workdir: Path, root: Path, commit: str) -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        objects = root / os.fsdecode(_ask(root, "rev-parse", "--git-path", "objects")).removesuffix("\n")
        index = {  # the user's own stay as they are, and may be read-only
            "GIT_INDEX_FILE": f"{folder}/index",
            "GIT_OBJECT_DIRECTORY": folder,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": json.dumps(str(objects), ensure_ascii=False),  # may have a colon
        }
        _ask(root, "read-tree", "HEAD", **index)
        new = _ask(root, "ls-files", "--others", "--exclude-standard", "-z", "--", ":/*.py", **index)
        names = _relevant(root, os.fsdecode(new).split("\0")[:-1])
        if names:
            _ask(root, "--literal-pathspecs", "add", "--intent-to-add", "--", *names, **index)
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


def _relevant(root: Path, names: Sequence[str]) -> list[str]:
    """Return those new files that may have a part in what runs: the package's, and imported ones, as configs are."""
    folders = [(root / folder).resolve() for folder in _FOLDERS]
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    imported = {os.path.realpath(file) for file in files if file}
    paths = {name: (root / name).resolve() for name in names}
    return [name for name, path in paths.items() if str(path) in imported or any(map(path.is_relative_to, folders))]


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
