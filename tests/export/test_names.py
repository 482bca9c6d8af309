"""Names and layouts: there and back is the identity, and layouts mean the same sums."""

import functools
from pathlib import Path

import jax
import numpy as np
import pytest

from ssljax.errors import InputError
from ssljax.export.names import head_from_torch, head_to_torch, vit_from_torch, vit_to_torch
from ssljax.models.heads import DINOHead
from ssljax.models.pure import Pure
from ssljax.models.vit import ViT

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "vit_dino.npz")
TINY = dict(image_size=32, patch_size=8, width=48, depth=3, heads=3)


def params(make, **arguments):
    return Pure(functools.partial(make, **arguments)).init(jax.random.key(0))


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def golden_state():
    return {k.removeprefix("state/"): GOLDEN[k] for k in GOLDEN.files if k.startswith("state/")}


def test_golden_state_dict_there_and_back():
    state = golden_state()
    back = vit_to_torch(vit_from_torch(state))
    assert back.keys() == state.keys()
    assert all(back[name].shape == state[name].shape for name in state)
    assert_same(back, state)


@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_vit_there_and_back(mlp):
    ours = params(ViT, **TINY, mlp=mlp, registers=2, layer_scale=0.1, mask_token=True)
    state = vit_to_torch(ours)
    assert state["register_tokens"].shape == (1, 2, 48)
    assert state["mask_token"].shape == (1, 48)
    assert state["blocks.2.ls1.gamma"].shape == (48,)
    assert ("blocks.0.mlp.w12.weight" in state) == (mlp == "swiglu")
    assert all(array.flags["C_CONTIGUOUS"] and array.dtype == np.float32 for array in state.values())
    assert_same(vit_from_torch(state), jax.tree.map(np.asarray, ours))


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("layers", [1, 3])
def test_head_there_and_back(layers, fixed):
    sizes = dict(width=12, hidden=16, bottleneck=8, prototypes=24)
    ours = params(DINOHead, **sizes, layers=layers, norm_last_layer=fixed)
    state = head_to_torch(ours)
    hidden = ["mlp"] if layers == 1 else ["mlp.0", "mlp.2", "mlp.4"]
    names = {f"{name}.{kind}" for name in hidden for kind in ("weight", "bias")}
    assert state.keys() == names | {"last_layer.weight_g", "last_layer.weight_v"}
    assert state["last_layer.weight_g"].shape == (24, 1)
    assert_same(head_from_torch(state, norm_last_layer=fixed), jax.tree.map(np.asarray, ours))


def test_bad_state_dicts():
    state = golden_state()
    with pytest.raises(InputError, match="'head.weight' is none of a DINO or timm ViT's"):
        vit_from_torch(state | {"head.weight": np.zeros(1)})
    del state["blocks.1.norm1.bias"]
    with pytest.raises(InputError, match=r"norm1\.bias for 2 of 3 blocks"):
        vit_from_torch(state)
    head = head_to_torch(params(DINOHead, width=4, hidden=4, bottleneck=4, prototypes=4))
    with pytest.raises(InputError, match="norm_last_layer=False"):
        head_from_torch(head | {"last_layer.weight_g": np.full((4, 1), 2.0)})
    with pytest.raises(InputError, match="'norm.weight' is none of a DINO head's"):
        head_from_torch(head | {"norm.weight": np.zeros(4)})
