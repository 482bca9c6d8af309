"""Weights trained on images normalised otherwise give here what they gave there."""

import json

import numpy as np
import pytest
from released import RESNET, VIT, network

from ssljax.errors import InputError
from ssljax.export import files, huggingface, read_network, timm
from ssljax.export.network import encoder_of
from ssljax.ops.augment import IMAGENET_MEAN, IMAGENET_STD

MEAN, STD = [0.5, 0.4, 0.3], [0.5, 0.25, 1.0]


def foreign(folder, module, weights, said):
    """Write what another library would: no metadata of ours, another normalisation."""
    folder.mkdir()
    files.write(module.to_state(weights), folder / "model.safetensors", {})
    configs = module.config_files(weights)
    configs["config.json"] |= said.get("config", {})
    configs["preprocessor_config.json"] = configs.get("preprocessor_config.json", {}) | said.get("preprocessor", {})
    for name, values in configs.items():
        if values:
            (folder / name).write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (timm, {"config": {"pretrained_cfg": {"mean": MEAN, "std": STD}}}),
        (timm, {"config": {"pretrained_cfg": None, "mean": MEAN, "std": STD}}),
        (huggingface, {"preprocessor": {"image_mean": MEAN, "image_std": STD}}),
    ],
)
def test_a_vit_takes_our_images(module, said, tmp_path):
    weights = network(encoder=VIT | dict(position_offset=0.0))
    read = read_network(foreign(tmp_path / "theirs", module, weights, said))
    pixels = np.random.default_rng(0).uniform(size=(2, 32, 32, 3))
    theirs = encoder_of(weights)(((pixels - MEAN) / STD).astype(np.float32))
    ours = encoder_of(read)(((pixels - IMAGENET_MEAN) / IMAGENET_STD).astype(np.float32))
    np.testing.assert_allclose(ours.cls, theirs.cls, atol=2e-6)
    np.testing.assert_allclose(ours.patches, theirs.patches, atol=2e-6)
    assert any("the patch embedding was changed" in note for note in read.notes)


def test_images_that_were_not_normalised(tmp_path):
    weights = network(encoder=VIT | dict(position_offset=0.0))
    said = {"preprocessor": {"do_normalize": False, "image_mean": MEAN, "image_std": STD}}
    read = read_network(foreign(tmp_path / "theirs", huggingface, weights, said))
    pixels = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype(np.float32)
    ours = encoder_of(read)(((pixels - IMAGENET_MEAN) / IMAGENET_STD).astype(np.float32))
    np.testing.assert_allclose(ours.cls, encoder_of(weights)(pixels).cls, atol=2e-6)


def test_imagenets_change_nothing_and_a_resnet_is_told(tmp_path):
    weights = network(encoder=VIT)
    read = read_network(foreign(tmp_path / "same", timm, weights, {}))
    np.testing.assert_array_equal(
        read.params["encoder"]["patch"]["kernel"], weights.params["encoder"]["patch"]["kernel"]
    )
    assert not any("normalised" in note for note in read.notes)
    said = {"preprocessor": {"image_mean": MEAN, "image_std": STD}}
    read = read_network(foreign(tmp_path / "resnet", huggingface, network(encoder=RESNET), said))
    assert any("normalise images yourself" in note for note in read.notes)
    said = {"preprocessor": {"image_mean": [0.5], "image_std": [0, 1, 2]}}
    with pytest.raises(InputError, match="theirs.*mean and deviation .* give three numbers"):
        read_network(foreign(tmp_path / "theirs", huggingface, weights, said))
