"""What a user gets who installs the wheel and has no clone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import uv

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel, seeing this one's packages but not its editable install; its bin folder."""
    folder = tmp_path_factory.mktemp("user")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    python = folder / "env" / "bin" / "python"
    uv_install = [uv.find_uv_bin(), "pip", "install", "--offline", "--no-deps", "--quiet", "--python", python, wheel]
    subprocess.run(uv_install, check=True)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip())
    # A path named in a .pth file is searched, but the .pth files in it are not read.
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


def run(bin_folder: Path, *command: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")} | more
    return subprocess.run(
        [bin_folder / command[0], *command[1:]], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def test_wheel_holds_the_package_preparation_and_configs_only(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"ssljax", "data_prep", "ssljax-0.1.0.dist-info"}
    packaged = {"ssljax/configs/dora.py", "ssljax/configs/ablations/objects.py"}
    assert packaged | {"ssljax/cli.py", "data_prep/video.py"} <= set(names)
    assert not [name for name in names if name.endswith(".pyc")]


def test_package_comes_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    result = run(installed, "python", "-c", "import ssljax, data_prep; print(ssljax.__file__)", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).is_relative_to(installed.parent)


@pytest.mark.parametrize(
    "command",
    [
        ("ssljax", "--help"),
        ("ssljax", "train", "--help"),
        ("ssljax", "prepare", "--help"),
        ("python", "-m", "data_prep.video", "--help"),
    ],
)
def test_commands_run_outside_any_clone(installed: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    result = run(installed, *command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "usage" in result.stdout.lower()


def test_trains_an_objective_data_set_and_config_of_the_users_own_package(installed: Path, tmp_path: Path) -> None:
    own = tmp_path / "package"
    own.mkdir()
    for name in ("own.py", "own_config.py", "toy.py"):
        shutil.copy(Path(__file__).with_name(name), own)
    result = run(
        installed, "ssljax", "train", "--config", "own_config", "--workdir", "run", cwd=tmp_path, PYTHONPATH=str(own)
    )
    assert result.returncode == 0, result.stderr
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 8
    assert losses[-1] < losses[0]


def test_packaged_config_is_found_outside_any_clone(installed: Path, tmp_path: Path) -> None:
    command = ("train", "--config", "configs/dora.py:smoke", "--workdir", "run", "--config.data.video=missing")
    result = run(installed, "ssljax", *command, cwd=tmp_path)
    assert result.returncode == 2
    assert "missing" in result.stderr
    assert not (tmp_path / "run").exists()
