"""Reading an encoder from a file that `ssljax export` wrote."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
from safetensors import SafetensorError, safe_open

from ssljax.errors import InputError
from ssljax.export import names
from ssljax.models.pure import Pure
from ssljax.models.vit import ViT
from ssljax.objectives.base import Encoder


def read_encoder(path: Path) -> Encoder:
    """Return the ViT of a .safetensors file under DINO's names.

    What the arrays don't say, such as the number of heads, is in the file's metadata.

    Raises:
        InputError: The file cannot be read, or holds no such encoder.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path} is no .safetensors file that can be read ({error}); give one of ssljax export."
        ) from error
    if "ssljax" not in metadata:
        raise InputError(f"{path} does not say how many heads its encoder has; give a file of ssljax export.")
    model = Pure(functools.partial(ViT, **json.loads(metadata["ssljax"])))
    expected = names.vit_shapes(jax.eval_shape(model.init, jax.random.key(0)))
    for name in sorted(expected.keys() | state.keys()):
        wanted, shape = expected.get(name), state[name].shape if name in state else None
        if shape != wanted:
            found = "lacks the array" if shape is None else f"holds {list(shape)} as"
            meant = "has none of it" if wanted is None else f"has {list(wanted)}"
            raise InputError(f"{path} {found} {name}, but the encoder of its metadata {meant}; export it again.")
    return Encoder(model, jax.tree.map(jnp.asarray, names.vit_from_torch(state)))
