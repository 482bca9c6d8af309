"""What the command line takes of each picture is what its function takes."""

import argparse
import importlib
import inspect

import pytest

from ssljax.arguments import parser as arguments_of_verbs
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


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("neighbours --most -3", "'-3' is not a whole number from 1 on"),
        ("embedding --most 0", "'0' is not a whole number from 1 on"),
        ("embedding --seed -1", "'-1' is not a whole number from 0 to 4294967295"),
        ("features --count few", "'few' is not a whole number from 1 on"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(given, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        arguments_of_verbs().parse_args(["show", *given.split(), "--workdir", "run"])
    assert said in capsys.readouterr().err
