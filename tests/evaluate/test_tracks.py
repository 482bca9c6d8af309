"""The score of tracks as a protocol: equal to its parts by hand, on one device and on eight, and inside a run."""

import functools
import json

import jax
import numpy as np
import pytest
from pictures import make_folder
from videos import make_video

from data_prep.prepare import Settings, prepare
from ssljax import build, configuration
from ssljax.cli import main
from ssljax.data.records import read_frames
from ssljax.errors import InputError
from ssljax.evaluate.encoders import Pixels
from ssljax.evaluate.health import Health
from ssljax.evaluate.tracking import consistency, fit_frames, overlap, track_objects
from ssljax.evaluate.tracks import TrackConsistency
from ssljax.mesh import make_mesh
from ssljax.models.pure import Pure
from ssljax.models.vit import ViT
from ssljax.objectives.base import Encoder
from ssljax.train import train


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two of 4 seconds at 25 frames a second."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("street", "walk"):
        prepare(make_video(folder / f"{name}.mp4"), folder / "set" / name, Settings(1))
    return folder / "set"


@pytest.fixture(scope="module")
def encoder():
    model = Pure(functools.partial(ViT, image_size=32, patch_size=8, width=24, depth=2, heads=3))
    return Encoder(model, model.init(jax.random.key(0)))


@pytest.mark.parametrize("devices", [1, 8])
def test_equals_its_parts_by_hand(videos, encoder, devices):
    protocol = TrackConsistency(
        video=str(videos / "street"), size=48, seconds=(-2.0, 3.0), frames=13, objects=2, draws=2, epsilon=0.1
    )
    found = protocol(encoder, make_mesh("", jax.devices()[:devices]))
    frames, times = read_frames(videos / "street", (2 + 0.08 * np.arange(13)).tolist())  # every second of 25
    frames, scores = fit_frames(frames, size=48, patch_size=8), []
    for heads in ((0, 1), (0, 2)):
        tracks = track_objects(encoder, frames, heads, epsilon=0.1)
        still = consistency(tracks.features, np.repeat(tracks.masks[:1], 13, 0))
        moving = consistency(tracks.features, tracks.masks)
        scores.append([moving.region, still.region, moving.patch, still.patch, overlap(tracks.masks)])
    names = ["tracks_region", "tracks_region_still", "tracks_patch", "tracks_patch_still", "tracks_overlap"]
    assert found.metrics == pytest.approx(dict(zip(names, np.mean(scores, 0), strict=True)), abs=1e-5)
    assert [draw["heads"] for draw in found.details["draws"]] == [[0, 1], [0, 2]]
    assert [draw["tracks_patch"] for draw in found.details["draws"]] == pytest.approx([x[2] for x in scores], abs=1e-5)
    assert protocol.data["frames"] == 13 and protocol.data["seconds"] == pytest.approx([times[0], times[-1]])
    assert not found.shares


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(video=""), "name the folder"),
        (dict(video="{videos}/nowhere"), "nowhere is not a folder"),
        (dict(video="{videos}"), "holds 2 videos; name one of them"),
        (dict(seconds=(9.0, 10.0)), "0 frames in seconds 9 to 10 of its 4.0"),
        (dict(seconds=(3.0, 2.0)), "0 frames in seconds 3 to 2"),
        (dict(frames=1), "frames is 1"),
        (dict(objects=1), "objects 1"),
        (dict(epsilon=0.0), "epsilon 0.0"),
        (dict(epsilon=float("nan")), "epsilon nan"),
        (dict(objects=4), "3 heads for 4 objects"),
        (dict(size=4), "less than one patch"),
        (dict(layer=5), "block 5 does not exist"),
    ],
)
def test_bad_input(videos, encoder, arguments, message):
    given = dict(video="{videos}/street", size=32) | arguments
    given["video"] = given["video"].format(videos=videos)
    with pytest.raises(InputError, match=message):
        TrackConsistency(**given).check(encoder, make_mesh())


def test_an_encoder_without_attention_is_told(videos):
    with pytest.raises(InputError, match="start from a ViT's attention"):
        TrackConsistency(video=str(videos / "street"), size=32)(Encoder(Pixels(8), {}), make_mesh())
    assert not TrackConsistency.takes_pixels


def test_the_checkpoint_that_a_run_keeps_is_chosen_without_labels(videos, tmp_path):
    """Four updates, each scored and saved: kept are the newest, and the one with the highest rank."""
    make_folder(tmp_path / "raw", {"all": 12})
    assert main(["prepare", "images", str(tmp_path / "raw" / "all"), "--output", str(tmp_path / "set")]) == 0
    overrides = [
        f"--config.data.video={videos / 'street'}",
        "--config.data.gap=0.2",
        "--config.epochs=2",
        "--config.checkpoint.every=1",
        "--config.checkpoint.keep=1",
        "--config.checkpoint.best_metric=health_rankme",
        "--config.checkpoint.best_mode=max",
        "--config.evaluate.every=1",
        "--config.evaluate.protocols=('health', 'tracks')",
        f"--config.evaluate.health.data={tmp_path / 'set'}",
        f"--config.evaluate.tracks.video={videos / 'street'}",
        "--config.evaluate.tracks.seconds=(3.0,4.0)",
        "--config.objective.momentum.start=0.5",
    ]
    workdir = tmp_path / "run"
    train(configuration.load("configs/dora.py:smoke", overrides), workdir)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "tracks_patch" in row] == [1, 2, 3, 4]
    scores = {row["step"]: row["health_rankme"] for row in rows}
    assert len(set(scores.values())) == 4
    kept = {int(entry.name) for entry in (workdir / "checkpoints").iterdir()}
    best = max(scores, key=scores.get)
    assert kept == {4, best}

    run = build.restore(workdir, best)
    encoder = build.image_encoder(run.objective, run.state.params, run.state.state)
    found = Health(data=str(tmp_path / "set"), size=32)(encoder, make_mesh())
    assert found.metrics["health_rankme"] == pytest.approx(scores[best], rel=1e-4)
