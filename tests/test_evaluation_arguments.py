"""What the command line takes of each protocol is what its constructor takes."""

import argparse
import inspect

import pytest

from ssljax.arguments import parser
from ssljax.constructors import CONSTRUCTORS
from ssljax.evaluation_arguments import PROTOCOLS
from ssljax.number_arguments import finite, seed


def test_every_protocol_has_a_command():
    assert set(PROTOCOLS) == set(CONSTRUCTORS["evaluate"])


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_numbers_are_finite_and_seeds_not_negative(name, capsys):
    """Of every protocol, so that none that comes later is left out."""
    whole = argparse.ArgumentParser(add_help=False)
    PROTOCOLS[name][1](whole)
    for action in whole._actions:
        assert action.type is not float, action.dest
        wrong = {finite: ("nan", "inf", "1e999", "much"), seed: ("-1", "4294967296", "1.5")}.get(action.type, ())
        assert (action.dest == "seed") == (action.type is seed), action.dest
        for text in wrong:
            count = action.nargs if isinstance(action.nargs, int) else 1
            with pytest.raises(SystemExit) as stop:
                parser().parse_args(["evaluate", name, action.option_strings[0], *[text] * count])
            error = capsys.readouterr().err
            assert stop.value.code == 2 and error.count("\n") == 1
            assert f"argument {action.option_strings[0]}: '{text}' is not a " in error


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_the_arguments_are_the_constructors(name):
    whole = argparse.ArgumentParser(add_help=False)
    PROTOCOLS[name][1](whole)
    signature = inspect.signature(CONSTRUCTORS["evaluate"][name].__init__)
    assert {action.dest for action in whole._actions} == set(signature.parameters) - {"self"}
    for action in whole._actions:
        default = signature.parameters[action.dest].default
        if not action.required and default is not inspect.Parameter.empty:
            assert action.default == default, action.dest
