"""The models that a file says it holds: nothing of what it says is imported, run or taken on trust."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from ssljax import build
from ssljax.constructors import CONSTRUCTORS
from ssljax.errors import InputError
from ssljax.models.pure import Pure
from ssljax.models.resnet import ResNet
from ssljax.models.vit import ViT

ROLES = ("encoder", "head", "patch_head", "decoder", "projector", "predictor")
"""What a network's parts may be."""

ENCODERS: dict[str, type] = {"vit": ViT, "resnet": ResNet}
"""By the name of the function that makes one of a named size."""

MOST = 1000
"""Of layers or blocks that are made one by one, which a damaged number would make endless."""


def model_of(role: str, arguments: Mapping[str, Any], place: object) -> Pure:
    """Return the model of a role from arguments as a config has them.

    Args:
        role: One of `ROLES`.
        arguments: With the name of the constructor; an import path, which a config may have, is refused here.
        place: Where they come from, for errors.

    Raises:
        InputError: There is no such role or model, or an argument is unknown, of the wrong type or impossible.
    """
    name = arguments.get("name")
    known = isinstance(name, str) and name in CONSTRUCTORS["models"] and role in ROLES
    if not known or (role == "encoder") != (name in ENCODERS):
        raise InputError(f"{place} says that its {role} is a {name!r}, which is no such model of ours.")
    assert isinstance(name, str)
    constructor: Any = ENCODERS.get(name, CONSTRUCTORS["models"][name])
    hints = {"size": str, "depth": int} | typing.get_type_hints(constructor.__init__)
    for argument, value in arguments.items():
        if not _fits(value, hints.get(argument, object)):
            raise InputError(f"{place} says that its {role} has {argument} {value!r}, which cannot be.")
    try:
        counted = arguments.get("layers", 0), sum(arguments.get("blocks", ()))
        if max(counted) > MOST:
            raise InputError(f"there are more than {MOST} layers in a row")
        return build.model(role, arguments)
    except Exception as error:  # whatever impossible sizes make a model stumble over
        raise InputError(f"{place} says of its {role} what no model can be: {error}") from error


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a JSON value is of an argument's type."""
    if isinstance(hint, types.UnionType):
        return any(_fits(value, one) for one in typing.get_args(hint))
    if typing.get_origin(hint) is Sequence:
        return isinstance(value, list | tuple) and all(_fits(one, *typing.get_args(hint)) for one in value)
    if hint in (int, float):
        finite = not isinstance(value, float) or math.isfinite(value)
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool) and finite
    return isinstance(value, hint)
