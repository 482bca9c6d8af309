"""The protocol on drawn sequences: what perfect, random and bare features score, on one device and on eight."""

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from masked import COLOURS, drawn, make_davis
from PIL import Image

from data_prep.davis import main
from ssljax.data.davis import MaskedSequences
from ssljax.errors import InputError
from ssljax.evaluate.davis import Davis, frame_size, segment
from ssljax.evaluate.davis_metrics import mean_scores, sequence_scores
from ssljax.evaluate.propagation import one_hot, to_mask
from ssljax.mesh import make_mesh
from ssljax.models.pure import Pure
from ssljax.models.vit import ViT
from ssljax.objectives.base import Encoder
from ssljax.ops.augment import IMAGENET_MEAN, IMAGENET_STD

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "davis.npz")
SEQUENCES = {"one": drawn(0), "two": drawn(1)}
SIZE = dict(size=96, multiple=48)  # the frames' own, 96x144 pixels
PATCH = 8


class Patches(NamedTuple):
    patches: jax.Array


@dataclasses.dataclass(frozen=True)
class Perfect:
    """Patch features that say of what colour the middle pixel is, in the place of an encoder's model."""

    def __call__(self, params, images):
        colours = (COLOURS / 255 - IMAGENET_MEAN) / IMAGENET_STD
        pixels = images[:, PATCH // 2 :: PATCH, PATCH // 2 :: PATCH]
        distances = jnp.sum((pixels[..., None, :] - colours.astype(np.float32)[None, None, None]) ** 2, -1)
        return Patches(jax.nn.one_hot(jnp.argmin(distances, -1), 3).reshape(len(images), -1, 3))


@dataclasses.dataclass(frozen=True)
class Random:
    """Patch features that have nothing to do with each other."""

    seed: int

    def __call__(self, params, images):
        count = images.shape[1] * images.shape[2] // PATCH**2
        numbers = jnp.sum(images * 1000, axis=(1, 2, 3)).astype(jnp.int32)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(self.seed), numbers)
        return Patches(jax.vmap(lambda key: jax.random.normal(key, (count, 64)))(keys))


def tiny():
    make = functools.partial(ViT, image_size=32, patch_size=PATCH, width=24, depth=2, heads=2)
    model = Pure(make)
    return Encoder(model, model.init(jax.random.key(0)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("davis")
    make_davis(place / "raw", SEQUENCES)
    assert main([str(place / "raw"), "--output", str(place / "set")]) == 0
    return place / "set"


def bound():
    """What the grid of patches allows: each frame's own mask, a patch having its middle pixel's label."""
    scores = []
    for masks in SEQUENCES.values():
        grids = masks[:, PATCH // 2 :: PATCH, PATCH // 2 :: PATCH]
        coarse = np.stack([np.asarray(to_mask(one_hot(grid, 3), size=masks.shape[1:])) for grid in grids])
        scores += sequence_scores(masks, coarse).values()
    return mean_scores(scores)


def test_perfect_features_reach_the_bound_of_the_grid(folder):
    found = Davis(data=str(folder), **SIZE)(Encoder(Perfect(), {}), make_mesh())
    assert found.metrics == pytest.approx(bound(), abs=2e-3)
    assert 0.8 < found.metrics["davis_j"] < 0.95 and found.metrics["davis_j_recall"] == 1.0
    objects = [scores["objects"][key]["j"]["mean"] for scores in found.details["sequences"].values() for key in "12"]
    assert np.mean(objects) == pytest.approx(found.metrics["davis_j"])


def chance(random, *, queue=7, top_k=5, neighbourhood=12, temperature=0.1):
    """Scores where similarities are drawn, each alone, as those of 64 random numbers are spread; in NumPy."""
    scores = []
    for masks in SEQUENCES.values():
        labels = [one_hot(masks[0, PATCH // 2 :: PATCH, PATCH // 2 :: PATCH], 3)]
        rows, columns = (index.ravel() for index in np.indices(labels[0].shape[:2]))
        far = np.maximum(np.abs(rows[:, None] - rows), np.abs(columns[:, None] - columns)) > neighbourhood
        for t in range(1, len(masks)):
            references = np.concatenate([x.reshape(-1, 3) for x in [labels[0], *labels[max(1, t - queue) : t]]])
            cosines = random.normal(0, 1 / 8, (len(rows), len(references)))
            cosines[np.tile(far, len(references) // len(rows))] = -np.inf
            nearest = np.argsort(-cosines, axis=1)[:, :top_k]
            weights = np.exp(np.take_along_axis(cosines, nearest, 1) / temperature)
            weights /= weights.sum(1, keepdims=True)
            labels.append(np.einsum("nk,nkc->nc", weights, references[nearest]).reshape(labels[0].shape))
        found = np.stack([np.asarray(to_mask(x.astype(np.float32), size=masks.shape[1:])) for x in labels])
        scores += sequence_scores(masks, found).values()
    return mean_scores(scores)


def test_random_features_score_what_chance_gives(folder):
    protocol = Davis(data=str(folder), **SIZE)
    found = [protocol(Encoder(Random(seed), {}), make_mesh()).metrics for seed in range(8)]
    expected = [chance(np.random.default_rng(seed)) for seed in range(8)]
    for name in ("davis_j", "davis_f"):
        ours, theirs = ([scores[name] for scores in runs] for runs in (found, expected))
        error = np.sqrt((np.var(ours) + np.var(theirs)) / 7)  # of the difference of two means over 8
        assert abs(np.mean(ours) - np.mean(theirs)) < 3 * error < 0.05
        assert np.mean(theirs) < 0.35


def test_eight_devices_equal_one(folder, tmp_path):
    results = {}
    for devices in (1, 8):
        mesh = make_mesh("fsdp=2,tensor=2" if devices == 8 else "", jax.devices()[:devices])
        protocol = Davis(data=str(folder), masks=str(tmp_path / str(devices)), **SIZE)
        results[devices] = protocol(tiny(), mesh)
    assert results[1].metrics == pytest.approx(results[8].metrics, abs=2e-3)
    written = [sorted((tmp_path / name).rglob("*.png")) for name in ("1", "8")]
    assert len(written[0]) == len(written[1]) == 14
    differ = [(np.asarray(Image.open(a)) != np.asarray(Image.open(b))).mean() for a, b in zip(*written, strict=True)]
    assert np.mean(differ) < 1e-3  # pixels where two classes are nearly equal


def test_a_sequence_equals_the_released_code():
    """Masks of seven frames, of which some have equal features, so that patches are equally near."""
    size = frame_size(100, 130, size=480)
    assert size == (480, 576)
    found = segment(GOLDEN["features"], GOLDEN["first"], size=size, queue=3, top_k=5, neighbourhood=4)
    assert (found != GOLDEN["predicted"]).mean() < 1e-4
    assert [set(np.unique(mask)) for mask in found] == [{0, 1, 2}] * 7


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(480, 854, (480, 832)), (854, 480, (832, 480)), (1080, 1920, (480, 832)), (480, 480, (480, 448))],
)
def test_frames_have_the_size_of_the_released_code(height, width, expected):
    assert frame_size(height, width, size=480) == expected


def test_masks_are_written_in_the_manner_of_the_set(folder, tmp_path):
    make_davis(tmp_path / "raw", {"one": drawn(0, objects=1)}, binary=True)
    assert main([str(tmp_path / "raw"), "--output", str(tmp_path / "2016")]) == 0
    for data, values in ((folder, {0, 1, 2}), (tmp_path / "2016", {0, 255})):
        protocol = Davis(data=str(data), sequences=["one"], masks=str(tmp_path / f"{data.name} masks"), **SIZE)
        assert list(protocol(Encoder(Perfect(), {}), make_mesh()).details["sequences"]) == ["one"]
        place = tmp_path / f"{data.name} masks" / "one"
        assert sorted(path.name for path in place.iterdir()) == [f"{t:05d}.png" for t in range(7)]
        with Image.open(place / "00003.png") as image:
            assert set(np.unique(np.asarray(image))) == values
            assert image.mode == ("L" if 255 in values else "P") and image.size == (144, 96)
            assert 255 in values or image.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
        first = (data / "masks" / "one" / "00000.png", place / "00000.png")
        np.testing.assert_array_equal(*(np.asarray(Image.open(path)) for path in first))


def test_masks_of_first_frames_alone_are_enough_to_write_others(tmp_path):
    raw = make_davis(tmp_path / "raw", {"one": SEQUENCES["one"]})
    for path in sorted((raw / "Annotations" / "480p" / "one").iterdir())[1:]:
        path.unlink()
    assert main([str(raw), "--output", str(tmp_path / "set"), "--first-only"]) == 0
    with pytest.raises(InputError, match="nothing can be scored: name masks"):
        Davis(data=str(tmp_path / "set"), **SIZE)
    found = Davis(data=str(tmp_path / "set"), masks=str(tmp_path / "m"), **SIZE)(Encoder(Perfect(), {}), make_mesh())
    assert not found.metrics and len(list((tmp_path / "m" / "one").iterdir())) == 7


def test_a_damaged_frame_is_named(folder, monkeypatch):
    read = MaskedSequences.read

    def cut(data, sequence):
        frames, masks = read(data, sequence)
        return [frames[0], frames[1][:200], *frames[2:]], masks

    monkeypatch.setattr(MaskedSequences, "read", cut)
    with pytest.raises(InputError, match="Frame 00001 of one cannot be decoded .its header is cut short"):
        Davis(data=str(folder), sequences=["one"], **SIZE)(Encoder(Perfect(), {}), make_mesh())


@dataclasses.dataclass(frozen=True)
class NoPatches:
    def __call__(self, params, images):
        return jnp.mean(images, (1, 2))


@dataclasses.dataclass(frozen=True)
class NoGrid:
    def __call__(self, params, images):
        return Patches(jnp.ones((len(images), 7, 3)))


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (Perfect(), dict(data=""), "name the folder"),
        (Perfect(), dict(size=40), "size of at least one multiple"),
        (Perfect(), dict(top_k=0), "top_k 0"),
        (Perfect(), dict(temperature=0.0), "temperature 0.0"),
        (Perfect(), dict(temperature=float("nan")), "temperature nan"),
        (Perfect(), dict(sequences=["three"]), "no sequence 'three'; it has one, two"),
        (Perfect(), dict(masks="{data}"), "not empty"),
        (NoPatches(), {}, "no patches"),
        (NoGrid(), {}, "7 patches make no grid"),
    ],
)
def test_bad_input(folder, model, arguments, message):
    given = {"data": str(folder)} | SIZE | arguments
    given = {key: value.format(data=folder) if isinstance(value, str) else value for key, value in given.items()}
    with pytest.raises(InputError, match=message):
        Davis(**given)(Encoder(model, {}), make_mesh())


def test_patches_that_do_not_divide_the_frames(folder):
    with pytest.raises(InputError, match="patch size 8 does not divide"):
        Davis(data=str(folder), size=60, multiple=12)(tiny(), make_mesh())
