"""What the command line takes of each picture is what its function takes."""

import argparse
import importlib
import inspect

import pytest

from ssljax.number_arguments import seed
from ssljax.show_arguments import PICTURES


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_the_arguments_are_the_functions(name):
    parser = argparse.ArgumentParser(add_help=False)
    PICTURES[name][1](parser)
    draw = getattr(importlib.import_module(f"ssljax.report.{name}"), f"show_{name}")
    signature = inspect.signature(draw)
    assert {action.dest for action in parser._actions} == set(signature.parameters) - {"subject"}
    for action in parser._actions:
        assert action.type is not float, action.dest  # numbers are finite
        assert (action.dest == "seed") == (action.type is seed), action.dest
        default = signature.parameters[action.dest].default
        if not action.required and default is not inspect.Parameter.empty:
            assert action.default == default, action.dest
