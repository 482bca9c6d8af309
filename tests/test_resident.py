"""A video on the devices: the same windows as from records, cut where their frames lie."""

import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from videos import flip, make_video

from data_prep.prepare import Settings, prepare
from ssljax import mesh as meshes
from ssljax import resident
from ssljax.data.frames import Frames
from ssljax.data.loader import load
from ssljax.data.windows import Windows
from ssljax.errors import InputError

OPTIONS = dict(frames=3, gap=0.2, size=64, seed=1)


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    folder = tmp_path_factory.mktemp("street")
    path = make_video(folder / "street.mp4", 60, size=(320, 240))
    return prepare(path, folder / "street", Settings(1), segment_seconds=10).folder


def luma(frames):
    return frames.astype(np.float64) @ [0.299, 0.587, 0.114]


@pytest.mark.parametrize(("layout", "antialias", "least"), [("", True, 35), ("fsdp=2,tensor=2", False, 50)])
def test_the_windows_are_those_from_records(street, layout, antialias, least):
    """The host halves instead of widening the filter, so that without antialiasing alone the two are the same."""
    mesh, options = meshes.make_mesh(layout), OPTIONS | dict(size=160, antialias=antialias, reuse=2)
    records, plans = Windows(video=street, **options), Windows(video=street, source="device", **options).plans
    with jax.set_mesh(mesh):  # as in the loop
        planes, finish = resident.load(plans, mesh), resident.finisher(plans, mesh)
    parts = meshes.batch_parts(mesh)
    assert planes.shape == (-(-plans.frames // parts) * parts, 360, 320)
    assert {shard.data.shape[0] for shard in planes.addressable_shards} == {len(planes) // parts}
    with load(plans, rows=range(16), batch_size=16, position=32) as batches, jax.set_mesh(mesh):
        batch = meshes.to_mesh(mesh, next(batches), 16)
        with jax.transfer_guard("disallow"):
            windows = finish(planes, batch)
    assert windows["frames"].sharding.spec[0] == meshes.BATCH_AXES
    assert windows["position"].tolist() == list(range(32, 48))
    expected = np.stack([records[position]["frames"] for position in range(32, 48)])
    error = np.square(luma(np.asarray(windows["frames"])) - luma(expected)).mean()
    assert 10 * np.log10(255**2 / error) > least


@pytest.mark.long
def test_any_mesh_gives_the_same_bits():
    """More and fewer frames a device than windows ask of it, some asked for twice."""
    random = np.random.default_rng(0)
    for frames, rows, length in ((16, 8, 1), (24, 16, 5), (8, 32, 4)):
        planes = random.integers(0, 256, (frames, 36, 40), dtype=np.uint8)
        numbers = random.integers(0, frames, (rows, length), dtype=np.int32)
        corner = random.integers(0, 8, (rows, 2))
        boxes = np.concatenate([corner, random.integers(2, 16, (rows, 2))], axis=1).astype(np.int32)
        one = jax.jit(jax.vmap(lambda frame, box: resident.cut(frame, box, 12)))
        expected = one(planes[numbers.reshape(-1)], np.repeat(boxes, length, axis=0))
        expected = np.asarray(expected).reshape(rows, length, 12, 12, 3)
        for layout in ("", "fsdp=8", "data=2,fsdp=4"):
            mesh = meshes.make_mesh(layout)
            on_mesh = meshes.to_mesh(mesh, planes, frames)
            share = jax.jit(lambda p, n, b, mesh=mesh: resident.cut_windows(p, n, b, mesh=mesh, size=12))
            got = share(on_mesh, meshes.to_mesh(mesh, numbers, rows), meshes.to_mesh(mesh, boxes, rows))
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("antialias", [True, False])
def test_a_cut_is_the_published_formulas(antialias):
    """A colour that stays the same, and luma against Pillow-like weights in NumPy."""
    planes = np.zeros((36, 40), np.uint8)
    planes[:24] = np.random.default_rng(0).integers(0, 256, (24, 40))
    planes[24:] = 128
    grey = np.asarray(resident.cut(jnp.asarray(planes), jnp.array([3, 5, 20, 30]), 15, antialias))
    assert (grey[..., :1] == grey).all(), "no colour"

    def weights(start, extent):
        centres, width = start + (np.arange(15) + 0.5) * extent / 15, max(extent / 15, 1) if antialias else 1
        place = np.arange(start, start + extent) + 0.5
        if not antialias:
            centres = np.clip(centres, place[0], place[-1])
        parts = np.maximum(0, 1 - np.abs(centres[:, None] - place) / width)
        return parts / parts.sum(1, keepdims=True)

    expected = weights(3, 20) @ planes[3:23, 5:35].astype(float) @ weights(5, 30).T
    assert np.abs(grey[..., 0] - expected).max() < 0.51
    planes[:24], planes[24:, :20], planes[24:, 20:] = 100, 90, 200  # Y, Cb, Cr
    colour = np.asarray(resident.cut(jnp.asarray(planes), jnp.array([3, 5, 20, 30]), 15, antialias))
    expected = [100 + 1.402 * 72, 100 - 0.344136 * (90 - 128) - 0.714136 * 72, 100 + 1.772 * (90 - 128)]
    assert (colour == np.rint(expected)).all()


def test_no_frame_leaves_its_device():
    mesh = meshes.make_mesh("data=2,fsdp=4")
    sharding = jax.NamedSharding(mesh, meshes.BATCH)
    shapes = ((4096, 360, 320), np.uint8), ((64, 4), np.int32), ((64, 4), np.int32)
    planes, numbers, boxes = (jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for shape, dtype in shapes)
    share = jax.jit(lambda p, n, b: resident.cut_windows(p, n, b, mesh=mesh, size=64), out_shardings=sharding).lower(
        planes, numbers, boxes
    )
    compiled = share.compile()
    moved = re.findall(
        r"= (\w+)\[([\d,]*)\]\S* (all-gather|all-reduce|all-to-all|collective-permute)", compiled.as_text()
    )
    assert moved, "the numbers are told to all"
    for dtype, shape, _ in moved:
        assert dtype == "s32" and np.prod([int(n) for n in shape.split(",")]) <= 64 * 4, (dtype, shape)
    crop, frame = 64 * 64 * 3, 360 * 320
    # The crops of a chunk twice (before and after the sum), and 16 frames in float32 on their way.
    assert compiled.memory_analysis().temp_size_in_bytes < 3 * 64 * crop + 16 * 4 * 4 * frame


def test_images_and_several_sizes(street, tmp_path):
    path = make_video(tmp_path / "small.mp4", 20, size=(160, 256))
    small = prepare(path, tmp_path / "small", Settings(1)).folder
    options = dict(video=[street, small], size=96, seed=3, antialias=False)
    mesh, records = meshes.make_mesh(), Frames(**options)
    plans = Frames(source="device", **options).plans
    assert (plans.frames, plans.shape) == (80, (384, 320))
    with load(plans, rows=range(24), batch_size=24) as batches:
        batch = meshes.to_mesh(mesh, next(batches), 24)
    images = np.asarray(resident.finisher(plans, mesh)(resident.load(plans, mesh), batch)["image"])
    videos = {records.describe(position)["video"] for position in range(24)}
    assert len(videos) == 2
    for position, image in enumerate(images):
        error = np.square(luma(image) - luma(records[position]["image"])).mean()
        assert 10 * np.log10(255**2 / error) > 45


def test_only_what_windows_use_is_loaded(street):
    plans = Windows(video=street, source="device", seconds=(1.0, 1.8), stride=0.2, **OPTIONS).plans
    assert plans.frames == 4  # 1.0, 1.2, 1.4 and 1.6 s
    assert {int(n) for p in range(8) for n in plans[p]["numbers"]} == {0, 1, 2, 3}


def test_too_large_a_video_is_told(street, monkeypatch):
    plans = Windows(video=street, source="device", **OPTIONS).plans
    resident.check_memory(plans, meshes.make_mesh())  # simulated devices do not tell
    monkeypatch.setattr(resident, "_limits", lambda mesh: [10**9, 10**6])
    with pytest.raises(InputError, match=r"needs 0.0 GB on each of 8 device.* for 60 frames of 320x240, more than 60%"):
        resident.check_memory(plans, meshes.make_mesh())


def test_a_damaged_frame_is_named(street, tmp_path):
    folder = shutil.copytree(street, tmp_path / "a")
    flip(folder, 30)
    plans = Windows(video=folder, source="device", **OPTIONS).plans
    with pytest.raises(InputError, match=r"frame 30 \(1.200 s\) of .* cannot be read"):
        resident.load(plans, meshes.make_mesh())
