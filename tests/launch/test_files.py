"""The files of launch/ by their own tools, and every flag that they name by the command lines that take it."""

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from data_prep import video
from ssljax import arguments, configuration

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.rglob("*.sh"), *LAUNCH.rglob("*.sbatch")])
STARTED = sorted([*SCRIPTS, *LAUNCH.glob("*.yaml"), LAUNCH / "Dockerfile"])


def tool(name):
    """Return where the environment's program is; the environment need not be active."""
    path = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    return path or pytest.skip(f"{name} is not installed")


def words(parser):
    """Return the options that a parser knows."""
    return {word for action in parser._actions for word in action.option_strings if word.startswith("--")}


def options(verb):
    """Return the options of a verb of `ssljax`, or of preparing videos."""
    if verb == "prepare":
        parser = argparse.ArgumentParser()
        video.add_options(parser)
        return words(parser) | {"--output"}
    (verbs,) = (action for action in arguments.parser()._actions if isinstance(action, argparse._SubParsersAction))
    return words(verbs.choices[verb])


# The flags of every other program in these files.
OTHERS = {
    "date, rm, stat, mktemp, touch, sed, mountpoint, tail": "--iso-8601 --suffix --directory --date --unbuffered "
    "--quiet --pid",
    "setpriv, nvidia-smi": "--pdeathsig --query-gpu --format",
    "sbatch, srun": "--nodes --ntasks --ntasks-per-node --gpus-per-node --gpus-per-task --cpus-per-task --array "
    "--signal --job-name --open-mode --requeue --kill-on-bad-exit --export --time --test-only --parsable --wait",
    "scontrol, sinfo, scancel": "--oneliner --noheader --format --user --full --signal",
    "munged": "--foreground --force --socket --key-file --pid-file --log-file --seed-file",
    "gcloud": "--zone --worker --quiet --command --force --node-id --spot --accelerator-type --runtime-version --stop",
    "curl, sha256sum": "--silent --fail --header --check --strict",
    "pip, uv, useradd": "--user --allow-existing --python --requirement --no-deps --no-cache-dir --create-home --uid",
    "docker": "--file --build-arg --tag --gpus --volume",
    "kubectl, sky": "--filename --env",
}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shell_files_are_clean(path):
    subprocess.run(["bash", "-n", path], check=True)
    told = subprocess.run([tool("shellcheck"), "--external-sources", path], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout
    assert path.suffix == ".sbatch" or path.stat().st_mode & 0o111


def test_the_dockerfile_is_clean():
    told = subprocess.run([tool("hadolint"), LAUNCH / "Dockerfile"], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout


def test_the_dockerfile_finds_what_it_copies():
    ignored = (LAUNCH / "Dockerfile.dockerignore").read_text()
    for sources in re.findall(r"^COPY (.*) \S+$", (LAUNCH / "Dockerfile").read_text(), re.M):
        for source in sources.split():
            for name in [source.replace("${EXTRA}", extra) for extra in ("cuda12", "cuda13", "tpu")]:
                assert (ROOT / name).exists()
                assert f"\n!{name.split('/')[0]}\n" in ignored


@pytest.mark.parametrize("extra", ["cuda12", "cuda13", "tpu"])
def test_the_images_packages_are_those_of_the_tests(extra):
    assert extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    ours, theirs = ((ROOT / "requirements" / f"{name}.txt").read_text().splitlines() for name in (extra, "dev"))
    pins = {line.split("==")[0]: [] for line in theirs}
    for line in theirs:
        pins[line.split("==")[0]].append(line)
    for line in ours:
        assert line in pins.get(line.split("==")[0], [line])


@pytest.mark.parametrize("path", STARTED, ids=lambda path: path.name)
def test_the_head_is_the_command_that_runs_it(path):
    lines = path.read_text().splitlines()
    assert f"launch/{path.relative_to(LAUNCH)}" in lines[lines[0].startswith("#!")]


def flags(path):
    """Return the flags in a file, as whole words, but for those of the compiler."""
    return set(re.findall(r"(?<![\w-])--(?!xla_)[a-z][\w.-]*\b", path.read_text()))


@pytest.mark.parametrize("path", STARTED, ids=lambda path: path.name)
def test_flags_exist(path):
    keys = {flag for flag in flags(path) if flag.startswith("--config.")}
    own = options("train") | options("prepare") | options("sweep")
    known = own | {flag for line in OTHERS.values() for flag in line.split()}
    assert flags(path) - keys - known == set()
    if path.parent == LAUNCH:
        configuration.load(str(ROOT / "configs" / "dora.py"), [f"{key}=x" for key in keys])


def test_each_engine_says_how_processes_find_each_other():
    places = {"local.sh": "--coordinator", "slurm.sbatch": "--distributed", "gke_jobset.yaml": "--distributed"}
    for name, flag in places.items():
        assert flag in flags(LAUNCH / name) & options("train")
