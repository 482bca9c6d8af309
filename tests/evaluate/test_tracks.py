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
from ssljax.evaluate.tracks import TrackConsistency, in_parts
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
    """Its weights are enlarged, so that its heads attend to different patches: else all objects are one."""
    model = Pure(functools.partial(ViT, image_size=32, patch_size=8, width=24, depth=2, heads=3))
    return Encoder(model, jax.tree.map(lambda x: 4 * x if x.ndim > 1 else x, model.init(jax.random.key(0))))


NAMES = ["tracks_region", "tracks_region_still", "tracks_patch", "tracks_patch_still", "tracks_overlap"]


def by_hand(encoder, frames, heads):
    """The scores of one part, in the order of `NAMES`."""
    tracks = track_objects(encoder, fit_frames(frames, size=48, patch_size=8), heads, epsilon=0.1)
    moving = consistency(tracks.features, tracks.masks)
    still = consistency(tracks.features, np.repeat(tracks.masks[:1], len(frames), 0))
    return [moving.region, still.region, moving.patch, still.patch, overlap(tracks.masks)]


@pytest.mark.parametrize("devices", [1, 8])
def test_equals_its_parts_by_hand(videos, encoder, devices):
    """Thirteen frames in two parts of six, each from its own first frame; the thirteenth is left over."""
    protocol = TrackConsistency(
        video=str(videos / "street"), size=48, seconds=(-2.0, 3.0), frames=13, objects=2, draws=2, epsilon=0.1
    )
    found = protocol(encoder, make_mesh("", jax.devices()[:devices]))
    frames, times = read_frames(videos / "street", (2 + 0.08 * np.arange(12)).tolist())  # every second of 25
    scores = [by_hand(encoder, frames[:6], (0, 1)), by_hand(encoder, frames[6:], (0, 2))]
    assert np.all(np.array(scores)[:, -1] < 0.9)  # not all are one, of which the scores would be 0
    assert found.metrics == pytest.approx(dict(zip(NAMES, np.mean(scores, 0), strict=True)), abs=1e-5)
    for part, heads, spread, expected in zip(
        found.details["parts"], ([0, 1], [0, 2]), (times[:6], times[6:]), scores, strict=True
    ):
        assert part["heads"] == heads and part["seconds"] == pytest.approx([spread[0], spread[-1]])
        assert [part[name] for name in NAMES] == pytest.approx(expected, abs=1e-5)
    assert protocol.data["frames"] == 12 and protocol.data["seconds"] == pytest.approx([times[0], times[-1]])
    assert not found.shares


def test_choices_of_heads_repeat(videos, encoder):
    """Three heads for three objects are one choice, and yet every part starts anew."""
    protocol = TrackConsistency(video=str(videos / "street"), size=48, seconds=(0.0, 2.0), frames=8, draws=3)
    parts = protocol(encoder, make_mesh()).details["parts"]
    assert [part["heads"] for part in parts] == [[0, 1, 2]] * 3
    assert [part["seconds"] for part in parts] == [
        pytest.approx(span) for span in ([0.0, 0.28], [0.56, 0.84], [1.12, 1.4])
    ]


@pytest.mark.parametrize(
    ("stored", "most", "shape"), [(42, 4, (4, 10)), (8, 4, (4, 2)), (7, 4, (3, 2)), (3, 4, (1, 3))]
)
def test_parts_are_of_equal_length_and_at_least_two_frames(stored, most, shape):
    frames = np.broadcast_to(np.arange(stored, dtype=np.uint8)[:, None, None, None], (stored, 2, 5, 3))
    cut, times = in_parts(frames, np.arange(stored) / 4, most)
    assert cut.shape == (*shape, 2, 5, 3)
    np.testing.assert_array_equal(times, np.arange(np.prod(shape)).reshape(shape) / 4)
    np.testing.assert_array_equal(cut[..., 1, 2, 0], 4 * times)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(video=""), "name the folder"),
        (dict(video="{videos}/nowhere"), "nowhere is not a folder"),
        (dict(video="{videos}"), "holds 2 videos; name one of them"),
        (dict(seconds=(9.0, 10.0)), "0 frames in seconds 9 to 10 of its 4.0"),
        (dict(seconds=(3.0, 2.0)), "0 frames in seconds 3 to 2"),
        (dict(frames=1), "frames is 1"),
        (dict(draws=0), "1 draw"),
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


@pytest.mark.long
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

    place = tmp_path / "tracks.json"
    words = ["--video", str(videos / "street"), "--seconds", "3", "4", "--output", str(place)]
    assert main(["evaluate", "tracks", "--workdir", str(workdir), *words]) == 0
    record = json.loads(place.read_text())
    assert record["arguments"]["size"] == 2 * build.image_size(run.config)
    asked = [row for row in rows if "tracks_patch" in row][-1]
    assert {name: asked[name] for name in NAMES} == pytest.approx(record["results"]["trained"], abs=1e-5)
