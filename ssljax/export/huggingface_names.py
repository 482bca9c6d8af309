"""A vision transformer's parameters by DINO's names and by those of `transformers`, where they are of the same layout.

DINO's are the ones that `names` makes and reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from ssljax.errors import InputError

FIRST = "embeddings.patch_embeddings.projection.weight"

TOKENS = {
    "cls_token": ("embeddings.cls_token", 3),
    "pos_embed": ("embeddings.position_embeddings", 3),
    "register_tokens": ("embeddings.register_tokens", 3),
    "mask_token": ("embeddings.mask_token", 2),
    "patch_embed.proj.weight": (FIRST, 4),
    "patch_embed.proj.bias": ("embeddings.patch_embeddings.projection.bias", 1),
    "norm.weight": ("layernorm.weight", 1),
    "norm.bias": ("layernorm.bias", 1),
}
"""What is not in a block, from DINO's names: theirs, and the number of axes."""

VIT = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
DINOV2 = {
    "norm1": "norm1",
    "attn.proj": "attention.output.dense",
    "ls1": "layer_scale1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.w12": "mlp.weights_in",
    "mlp.w3": "mlp.weights_out",
    "ls2": "layer_scale2",
}
"""What is in a block, from DINO's names; of queries, keys and values, which are apart, `QKV` has theirs."""

QKV = ("attention.attention.query", "attention.attention.key", "attention.attention.value")

READ: dict[str, tuple[str, int, int]] = {
    **{theirs: (dino, 0, 1) for table in (VIT, DINOV2) for dino, theirs in table.items()},
    **{"attention.o_proj": ("attn.proj", 0, 1), "mlp.down_proj": ("mlp.w3", 0, 1)},
    **{name: ("attn.qkv", i, 3) for i, name in enumerate(QKV)},
    **{f"attention.{letter}_proj": ("attn.qkv", i, 3) for i, letter in enumerate("qkv")},
    **{f"mlp.{name}_proj": ("mlp.w12", i, 2) for i, name in enumerate(("gate", "up"))},
}
"""What is in a block, from the names of versions 4 and 5: DINO's, which part of it this is, and of how many."""

LAYERS = r"(?:encoder\.layer|layers)\."
DECODER_LAYERS = r"decoder\.(?:decoder_layers|decoder_encoder\.layer)\."
"""Before a block's number. The second of each is version 5's (in a decoder: what its `save_pretrained` makes of it)."""


def blocks_to_hub(state: Mapping[str, np.ndarray], table: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Return the blocks of a state dict of DINO's names as "0.attention.output.dense.weight" and so on."""
    blocks: dict[str, np.ndarray] = {}
    for name, array in state.items():
        if not name.startswith("blocks."):
            continue
        _, i, rest = name.split(".", 2)
        part, _, kind = rest.rpartition(".")
        if part == "attn.qkv":
            blocks |= {f"{i}.{x}.{kind}": third for x, third in zip(QKV, np.split(array, 3), strict=True)}
        else:
            blocks[f"{i}.{table[part]}.{'lambda1' if kind == 'gamma' else kind}"] = array
    return blocks


def tokens_from_hub(state: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return what is not in a block under DINO's names; a name of neither is told by `blocks_from_hub`.

    Raises:
        InputError: One that every ViT has is missing, or of another number of axes.
    """
    found: dict[str, np.ndarray] = {}
    for dino, (name, axes) in TOKENS.items():
        if prefix + name not in state:
            if dino in ("register_tokens", "mask_token"):
                continue
            raise InputError(f"the weights lack {prefix}{name}")
        array = state[prefix + name]
        array = array[0] if dino == "mask_token" and array.ndim == 3 else array  # ViTModel's has an axis more
        found[dino] = _of_axes(array, axes, prefix + name)
    pixels = found["patch_embed.proj.weight"].shape
    if pixels[1] != 3 or pixels[2] != pixels[3]:
        raise InputError(f"{prefix}{FIRST} is of the shape {list(pixels)}; read are square patches of 3 colours")
    return found


def blocks_from_hub(state: Mapping[str, np.ndarray], before: str) -> dict[str, np.ndarray]:
    """Return blocks under DINO's names ("blocks.0.attn.qkv.weight"); those of a model without biases of queries, keys
    and values have none.

    Args:
        state: Names of blocks alone.
        before: A regular expression of what stands before a block's number.

    Raises:
        InputError: A name is unknown, missing, or there twice.
    """
    parts: dict[str, list[np.ndarray | None]] = {}
    blocks: dict[str, set[str]] = {}
    for name, array in state.items():
        match = re.fullmatch(rf"({before})(\d+)\.((.+)\.(weight|bias|lambda1))", name)
        if match is None or match[4] not in READ:
            raise InputError(f"parameter {name!r} is none of a ViT's, DINOv2's or MAE's in transformers")
        start, i, rest, part, kind = match.groups()
        blocks.setdefault(start + i, set()).add(rest)
        dino, piece, count = READ[part]
        axes = 2 if kind == "weight" and not part.startswith(("norm", "layernorm")) else 1
        pieces = parts.setdefault(f"blocks.{i}.{dino}.{'gamma' if kind == 'lambda1' else kind}", [None] * count)
        if len(pieces) != count or pieces[piece] is not None:
            raise InputError(f"parameter {name!r} is there twice, under the names of two versions of transformers")
        pieces[piece] = _of_axes(array, axes, name)
    _check_whole(blocks)
    joined = {}
    for name, pieces in parts.items():
        arrays = [piece for piece in pieces if piece is not None]
        if len(arrays) < len(pieces):
            raise InputError(f"the weights hold {len(arrays)} of the {len(pieces)} parts of {name}")
        joined[name] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    _check_parts(joined)
    return joined


def _check_parts(state: Mapping[str, np.ndarray]) -> None:
    """Look for what every block has; that all have the same is known."""
    mlp = ("mlp.w12", "mlp.w3") if "blocks.0.mlp.w12.weight" in state else ("mlp.fc1", "mlp.fc2")
    for part in ("norm1", "attn.qkv", "attn.proj", "norm2", *mlp):
        for kind in ("weight",) if part == "attn.qkv" else ("weight", "bias"):
            if f"blocks.0.{part}.{kind}" not in state:
                names = [theirs for theirs, (dino, _, _) in READ.items() if dino == part]
                raise InputError(f"no block has a {kind} of {' or '.join(names)}")


def _check_whole(blocks: Mapping[str, set[str]]) -> None:
    """Compare the names in each block with those in the others."""
    start = min(blocks).rstrip("0123456789") if blocks else ""
    everything = set().union(*blocks.values())
    for i in range(len(blocks)):
        missing = sorted(everything - blocks.get(f"{start}{i}", set()))
        if missing:
            raise InputError(f"the weights lack {start}{i}.{missing[0]}")


def _of_axes(array: np.ndarray, axes: int, name: str) -> np.ndarray:
    if array.ndim != axes:
        raise InputError(f"{name} has the shape {list(array.shape)}, where {axes} axes are meant")
    return array
