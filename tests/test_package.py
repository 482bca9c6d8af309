"""The package as a whole: what imports what, and what its import costs."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import ssljax

ROOT = Path(__file__).parents[1]


def test_imports_keep_their_order() -> None:
    script = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([script, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_module_imports_where_tensorflow_and_torch_cannot_be() -> None:
    names = sorted(m.name for m in pkgutil.walk_packages(ssljax.__path__, "ssljax.") if "__main__" not in m.name)
    barred = "sys.modules.update(dict.fromkeys(['tensorflow', 'torch', 'transformers', 'wandb']))"
    code = f"import importlib, sys\n{barred}\nfor name in sys.argv[1:]: importlib.import_module(name)"
    result = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["dev", "parity"])
def test_requirements_are_pinned_and_without_heavy_packages(name: str) -> None:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    packages = {line.split("==")[0] for line in lines}
    assert all("==" in line for line in lines)
    assert packages.isdisjoint({"tensorflow", "tensorflow-cpu", "torch"})
    assert {"jax", "flax", "optax", "pytest"} <= packages
