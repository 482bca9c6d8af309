"""`ssljax show reconstructions`: what is drawn, and of which data."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from videos import make_video

from data_prep.prepare import Settings, prepare
from ssljax import build, configuration
from ssljax.cli import main
from ssljax.errors import InputError
from ssljax.ops.augment import normalise
from ssljax.ops.masking import patch_statistics, patchify
from ssljax.report.reconstructions import draw_reconstructions, held_out, pixels_of, show_reconstructions
from ssljax.train import train

SIZE = 144  # of a cell, so that pixels are drawn as they are


def colours_in(path):
    with Image.open(path) as image:
        return {tuple(colour) for colour in np.asarray(image.convert("RGB")).reshape(-1, 3).tolist()}, image.size


@pytest.mark.parametrize("frames", [1, 2])
def test_hidden_patches_are_the_prediction_and_seen_ones_the_image(frames, tmp_path):
    """Of plain colours: the original's in what was seen, the prediction's in what was hidden."""
    colours = np.random.default_rng(0).integers(0, 256, (2, 4, frames, 3), dtype=np.uint8)
    blocks = np.broadcast_to(colours[:, :, :, None, None], (2, 4, frames, SIZE, SIZE, 3))
    images, predicted = np.asarray(normalise(jnp.asarray(blocks, jnp.float32) / 255))
    every, some = np.ones((4, 4), bool), np.array([[True, False, False, True]] * 4)
    path = tmp_path / "sheet.png"
    draw_reconstructions(images, predicted, some, path, normalised=False)
    shown, size = colours_in(path)
    assert {tuple(colour) for colour in colours.reshape(-1, 3).tolist()} <= shown
    assert size[0] > SIZE * (9 if frames == 1 else frames)
    draw_reconstructions(images, predicted, every, path, normalised=True)
    assert colours_in(path)[1][1] > size[1]  # the note
    assert {tuple(colour) for colour in colours[1].reshape(-1, 3).tolist()} <= colours_in(path)[0]


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_a_perfect_prediction_is_the_image(norm_pix_loss):
    config = configuration.load("configs/mae.py:smoke", [f"--config.objective.norm_pix_loss={norm_pix_loss}"])
    mae = build.objective(config)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 1, 32, 32, 3)), jnp.float32)
    np.testing.assert_allclose(pixels_of(mae, mae.targets(images), images), images, atol=1e-5)
    plain = pixels_of(mae, jnp.zeros((2, 1, 16, 192)), images)
    mean, _ = patch_statistics(patchify(images, 8))
    expected = np.broadcast_to(mean, (2, 1, 16, 192)) if norm_pix_loss else np.zeros((2, 1, 16, 192))
    np.testing.assert_allclose(patchify(plain, 8), expected, atol=1e-6)


def test_held_out_is_what_follows_the_seconds_used():
    config = configuration.load("configs/mae.py:video")
    assert held_out(config) == (config, False)
    config.data.seconds = (0.0, -2.0)
    other, unseen = held_out(config)
    assert tuple(other.data.seconds) == (-2.0, None)
    assert unseen
    assert tuple(config.data.seconds) == (0.0, -2.0)


@pytest.mark.long
def test_a_run_on_video_from_training_to_picture(tmp_path, capsys):
    folder = prepare(make_video(tmp_path / "street.mp4"), tmp_path / "street", Settings(5)).folder
    overrides = [f"--config.data.video={folder}", "--config.data.seconds=(0.0,-2.0)", "--config.data.gap=0.4"]
    config = configuration.load("configs/mae.py:video", overrides)
    config.unlock()
    train(configuration.smoke(config), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "explained", "target_variance", "predicted_variance"} <= set(rows[-1])
    path = tmp_path / "sheet.png"
    command = ["show", "reconstructions", "--workdir", str(tmp_path / "run"), "--output", str(path), "--count", "2"]
    assert main(command) == 0
    assert "what training left out" in capsys.readouterr().out
    assert path.stat().st_size > 1000
    assert main([*command[:-1], "0"]) == 2
    assert "at least 1" in capsys.readouterr().err


def test_other_runs_are_refused(tmp_path, monkeypatch):
    config = configuration.load("toy")
    restored = build.Restored(config, build.objective(config), None)
    monkeypatch.setattr(build, "restore", lambda workdir, step: restored)
    with pytest.raises(InputError, match="a run of DoRA; reconstructions are drawn of MAE"):
        show_reconstructions(tmp_path, tmp_path / "sheet.png")
