"""Our own names and layouts, which hold any network: "encoder.blocks.attention.qkv.kernel"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from ssljax.errors import InputError
from ssljax.export.models import ROLES
from ssljax.export.network import Network


def to_state(network: Network) -> dict[str, np.ndarray]:
    """Return every part's arrays, role first."""
    return dict(traverse_util.flatten_dict(dict(network.params), sep="."))


def config_files(network: Network) -> dict[str, dict[str, Any]]:
    """Return no files: the record in the metadata says it all."""
    return {}


def recognises(state: Mapping[str, np.ndarray]) -> bool:
    """Return whether these are our names."""
    return "encoder.patch.kernel" in state or "encoder.conv.kernel" in state


def from_state(state: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> Network:
    """Return the parts; their arguments are in the record alone.

    Raises:
        InputError: A name has no role, or is another's beginning.
    """
    for name in state:
        role, _, rest = name.partition(".")
        if role not in ROLES or not rest or any(other.startswith(f"{name}.") for other in state):
            raise InputError(f"parameter {name!r} is none of an encoder's or a head's")
    tree = traverse_util.unflatten_dict(
        {tuple(name.split(".")): np.asarray(a, np.float32) for name, a in state.items()}
    )
    return Network({}, tree)
