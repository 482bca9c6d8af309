"""PyTorch reads what is exported, and computes the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax.export import export_encoder, torch_vit, write
from ssljax.export.check import hyperparameters, largest_difference
from ssljax.export.names import head_to_torch
from ssljax.models.heads import DINOHead
from ssljax.models.pure import Pure
from ssljax.models.vit import ViT, vit
from ssljax.objectives.base import Encoder

pytestmark = pytest.mark.long
torch = pytest.importorskip("torch")

TINY = dict(image_size=32, patch_size=8, width=48, depth=3, heads=3)


def spread(params, seed=0):
    """Return parameters far from their start, so that a misplaced one shows."""
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda p: p + jnp.asarray(random.normal(scale=0.1, size=p.shape), jnp.float32), params)


def encoder(make=ViT, **arguments):
    model = Pure(functools.partial(make, **arguments))
    return Encoder(model, spread(model.init(jax.random.key(0))))


def images(height, width):
    return np.random.default_rng(1).normal(size=(2, height, width, 3)).astype(np.float32)


def tokens(out):
    return np.concatenate([np.asarray(out.cls)[:, None], np.asarray(out.patches)], axis=1)


@pytest.mark.parametrize(
    "arguments",
    [
        dict(position_offset=0.1),
        dict(mlp="swiglu", registers=3, layer_scale=0.5, position_antialias=True),
        dict(positions="sincos", mlp_ratio=2.0, norm_eps=1e-3),
    ],
)
@pytest.mark.parametrize("size", [(32, 32), (48, 24), (16, 16)])
def test_any_variant_at_any_size(arguments, size):
    ours = encoder(**TINY, **arguments)
    state = {name: torch.tensor(array) for name, array in write.state_dict(ours).items()}
    theirs = torch_vit.features(state, images(*size), **hyperparameters(ours.model.abstract))
    np.testing.assert_allclose(tokens(ours(jnp.asarray(images(*size)))), theirs, atol=5e-5)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_export_and_check(suffix, tmp_path, capsys):
    path = tmp_path / f"weights{suffix}"
    export_encoder(encoder(**TINY, dtype="bfloat16"), path, check=True)
    assert "largest difference" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [path]


def test_check_fails_on_other_weights(tmp_path, monkeypatch):
    ours, path = encoder(**TINY), tmp_path / "weights.safetensors"
    other = write.state_dict(Encoder(ours.model, spread(ours.params, seed=5)))
    monkeypatch.setattr(write, "state_dict", lambda encoder: other)
    with pytest.raises(RuntimeError, match="does not give our features"):
        export_encoder(ours, path, check=True)


def test_strict(tmp_path):
    state = {name: torch.tensor(array) for name, array in write.state_dict(encoder(**TINY)).items()}
    with pytest.raises(ValueError, match="that no ViT has: head.weight"):
        torch_vit.features(state | {"head.weight": torch.zeros(1)}, images(32, 32), heads=3)
    del state["norm.bias"]
    with pytest.raises(KeyError, match="norm.bias"):
        torch_vit.features(state, images(32, 32), heads=3)


def test_vit_s_at_full_size(tmp_path):
    ours = encoder(vit, size="s", image_size=224, patch_size=16)
    path = tmp_path / "weights.safetensors"
    write.save(write.state_dict(ours), path)
    assert largest_difference(path, ours) < 1e-4


def test_head_equals_torch():
    model = Pure(functools.partial(DINOHead, width=12, hidden=16, bottleneck=8, prototypes=24, norm_last_layer=False))
    params = spread(model.init(jax.random.key(0)))
    layers = [
        torch.nn.Linear(12, 16),
        torch.nn.GELU(),
        torch.nn.Linear(16, 16),
        torch.nn.GELU(),
        torch.nn.Linear(16, 8),
    ]
    mlp = torch.nn.Sequential(*layers)
    state = {name: torch.tensor(array) for name, array in head_to_torch(params).items()}
    direction, gain = state.pop("last_layer.weight_v"), state.pop("last_layer.weight_g")
    mlp.load_state_dict({name.removeprefix("mlp."): tensor for name, tensor in state.items()}, strict=True)
    x = np.random.default_rng(0).normal(size=(5, 12)).astype(np.float32)
    with torch.inference_mode():
        z = torch.nn.functional.normalize(mlp(torch.tensor(x)), dim=-1)
        expected = torch.nn.functional.linear(z, torch._weight_norm(direction, gain, 0)).numpy()
    np.testing.assert_allclose(np.asarray(model(params, jnp.asarray(x))), expected, atol=2e-6)
