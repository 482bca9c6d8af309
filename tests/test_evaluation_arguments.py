"""What the command line takes of each protocol is what its constructor takes."""

import argparse
import inspect

import pytest

from ssljax import build
from ssljax.evaluation_arguments import PROTOCOLS


def test_every_protocol_has_a_command():
    assert set(PROTOCOLS) == set(build.CONSTRUCTORS["evaluate"])


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_the_arguments_are_the_constructors(name):
    parser = argparse.ArgumentParser(add_help=False)
    PROTOCOLS[name][1](parser)
    signature = inspect.signature(build.CONSTRUCTORS["evaluate"][name].__init__)
    assert {action.dest for action in parser._actions} == set(signature.parameters) - {"self"}
    for action in parser._actions:
        default = signature.parameters[action.dest].default
        if not action.required and default is not inspect.Parameter.empty:
            assert action.default == default, action.dest
