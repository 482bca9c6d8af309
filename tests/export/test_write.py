"""Files are whole or not there, and bad requests are told in one sentence."""

import functools
import importlib.util

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from ssljax.errors import InputError
from ssljax.export import export_encoder, write
from ssljax.export.names import vit_from_torch
from ssljax.models.pure import Pure
from ssljax.models.vit import ViT
from ssljax.objectives.base import Encoder


def encoder(**arguments):
    sizes = dict(image_size=32, patch_size=8, width=48, depth=2, heads=3)
    model = Pure(functools.partial(ViT, **(sizes | arguments)))
    return Encoder(model, model.init(jax.random.key(0)))


def test_file_holds_the_parameters(tmp_path):
    ours, path = encoder(), tmp_path / "weights.safetensors"
    path.write_text("an older file")
    export_encoder(ours, path)
    jax.tree.map(np.testing.assert_array_equal, vit_from_torch(load_file(path)), dict(ours.params))
    assert list(tmp_path.iterdir()) == [path]


def test_fixed_positions_are_written_out(tmp_path):
    ours, path = encoder(positions="sincos"), tmp_path / "weights.safetensors"
    export_encoder(ours, path)
    expected = ours.model(ours.params, (4, 4), method="positions")
    np.testing.assert_array_equal(load_file(path)["pos_embed"][0], expected)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    path.write_text("an older file")

    def full(state, file, **keywords):
        file.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "save_file", full)
    with pytest.raises(InputError, match="cannot be written: .*No space left"):
        export_encoder(encoder(), path)
    assert path.read_text() == "an older file"
    assert list(tmp_path.iterdir()) == [path]


def test_bad_requests(tmp_path, monkeypatch):
    ours = encoder()
    with pytest.raises(InputError, match="ends in neither .safetensors nor .pth"):
        export_encoder(ours, tmp_path / "weights.npz")
    with pytest.raises(InputError, match="format 'jepa' is unknown"):
        export_encoder(ours, tmp_path / "weights.safetensors", format="jepa")
    with pytest.raises(InputError, match="cannot be written"):
        export_encoder(ours, tmp_path / "missing" / "weights.safetensors")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"\.pth needs PyTorch, which is not installed: pip install"):
        export_encoder(ours, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="--check needs PyTorch"):
        export_encoder(ours, tmp_path / "weights.safetensors", check=True)
    assert not list(tmp_path.iterdir())
