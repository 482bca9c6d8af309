"""Where `ssljax` is a stand-in."""

import os
import sys

import pytest
from stand_in import PROGRAM, executable


@pytest.fixture
def environment(tmp_path):
    """The environment in which the stand-in is `ssljax`, and no GPU is seen."""
    program = executable(tmp_path / "bin" / "ssljax", f"#!{sys.executable} -SE\n{PROGRAM}")
    return os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": ""}
