"""What is written are the features that evaluations see, each beside its name; or nothing is written."""

import functools
import importlib.util
import json

import jax
import numpy as np
import pyarrow.parquet
import pytest
from pictures import encode, make_folder, smooth
from videos import make_video

from ssljax import extract as extraction
from ssljax import feature_files
from ssljax.cli import main
from ssljax.data.images import evaluation_view
from ssljax.data.inputs import find_inputs
from ssljax.errors import InputError
from ssljax.evaluate import encoders
from ssljax.export import export_encoder
from ssljax.extract import extract
from ssljax.models.pure import Pure
from ssljax.models.vit import ViT
from ssljax.objectives.base import Encoder

TIGHT = dict(rtol=1e-6, atol=4e-6)  # batches of other sizes are summed in another order


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A tiny ViT and its exported file."""
    model = Pure(functools.partial(ViT, image_size=32, patch_size=8, width=48, depth=2, heads=3, registers=2))
    encoder = Encoder(model, model.init(jax.random.key(0)))
    path = tmp_path_factory.mktemp("exported") / "encoder.safetensors"
    export_encoder(encoder, path, format="safetensors")
    return encoder, path


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder of 11 images in two classes, and a video of 4 s."""
    folder = tmp_path_factory.mktemp("places")
    make_folder(folder / "photos", {"red": 6, "green": 5}, side=40)
    make_video(folder / "street.mp4")
    return folder


def expected(encoder, places, size=32, every=None):
    """Return what an evaluation would get of all items at once."""
    items = [item for each in find_inputs(places, every=every, size=size) for item in each.items()]
    images = np.stack([evaluation_view(item.read(), size) for item in items])
    return items, encoders.encode(encoder, images, probe=-1)


def test_features_of_a_folder_are_those_of_evaluations(exported, places, tmp_path):
    encoder, weights = exported
    output = tmp_path / "deep" / "features.npz"
    done = extract([places / "photos"], output, weights=weights, batch_size=4, patches=True, attention=True)
    assert done == (11, {"features": (48,), "patches": (16, 48), "attention": (3, 16)}, [])
    items, wanted = expected(encoder, [places / "photos"])
    with np.load(output) as found:
        assert sorted(found) == ["attention", "features", "labels", "metadata", "names", "patches"]
        assert found["names"].tolist() == [item.name for item in items]
        assert found["labels"].tolist() == ["green"] * 5 + ["red"] * 6
        np.testing.assert_allclose(found["features"], wanted.cls, **TIGHT)
        np.testing.assert_allclose(found["patches"], wanted.patches, **TIGHT)
        np.testing.assert_allclose(found["attention"], wanted.probe.cls_attention, **TIGHT)
        metadata = json.loads(found["metadata"].item())
    shapes = {"features": [48], "patches": [16, 48], "attention": [3, 16]}
    about = {"weights": str(weights), "size": 32, "patch_size": 8, "pool": "features", "shapes": shapes}
    assert metadata == about
    assert list(output.parent.iterdir()) == [output]
    again = tmp_path / "again.npz"
    extract([places / "photos"], again, weights=weights, batch_size=4, patches=True, attention=True)
    assert again.read_bytes() == output.read_bytes()


def test_pool_size_and_half_precision(exported, places, tmp_path):
    encoder, weights = exported
    output = tmp_path / "features.npz"
    extract([places / "photos"], output, weights=weights, size=24, pool="mean", dtype="float16")
    _, wanted = expected(encoder, [places / "photos"], size=24)
    with np.load(output) as found:
        assert found["features"].dtype == np.float16
        np.testing.assert_allclose(found["features"], wanted.patches.mean(axis=1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_parquet_holds_images_beside_frames(exported, places, tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(feature_files, "_ROW_GROUP", 2000)
    encoder, weights = exported
    given, output = [places / "photos", places / "street.mp4"], tmp_path / "features.parquet"
    extract(given, output, weights=weights, batch_size=8, every=0.5, patches=True, dtype=dtype)
    items, wanted = expected(encoder, given, every=0.5)
    table = pyarrow.parquet.read_table(output)
    assert table.column_names == ["name", "time", "label", "features", "patches"]
    assert table["name"].to_pylist() == [item.name for item in items]
    assert table["label"].to_pylist() == [item.label for item in items] == ["green"] * 5 + ["red"] * 6 + [None] * 8
    assert table["time"].to_pylist() == [item.time for item in items]
    assert [time for time in table["time"].to_pylist() if time is not None][:3] == [0.0, 0.52, 1.0]
    tolerance = TIGHT if dtype == "float32" else dict(rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(np.stack(table["features"].to_numpy()), wanted.cls, **tolerance)
    shape = json.loads(table.schema.metadata[b"ssljax"])["shapes"]["patches"]
    patches = np.stack(table["patches"].to_numpy()).reshape(-1, *shape)
    np.testing.assert_allclose(patches, wanted.patches, **tolerance)
    file = pyarrow.parquet.ParquetFile(output)
    assert str(file.schema_arrow.field("features").type).startswith("fixed_size_list<") and file.num_row_groups > 1


def test_times_of_frames_beside_images(exported, places, tmp_path):
    output = tmp_path / "features.npz"
    extract([places / "photos" / "red" / "000.png", places / "street.mp4"], output, weights=exported[1])
    with np.load(output) as found:
        np.testing.assert_array_equal(found["times"], [np.nan, 0, 1, 2, 3])
        assert "labels" not in found


def test_damaged_images_end_it_or_are_left_out(exported, tmp_path, capsys):
    folder = make_folder(tmp_path / "photos", {"red": 2, "green": 2}, side=40)
    (folder / "green" / "000.png").write_bytes(encode(smooth(0), "PNG")[:200])
    output = tmp_path / "features.npz"
    arguments = ["features", str(folder), "--weights", str(exported[1]), "--output", str(output)]
    assert main(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "green/000.png cannot be read as an image" in error and "--skip-damaged" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]
    assert main([*arguments, "--skip-damaged"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("left out: ") and "green/000.png" in printed[0]
    assert printed[1] == f"wrote {output}: features [3, 48]; 1 left out"
    with np.load(output) as found:
        assert found["names"].tolist() == ["green/001.png", "red/000.png", "red/001.png"]
    for path in folder.glob("*/*"):
        path.write_text("no picture")
    with pytest.raises(InputError, match="nothing that can be read"):
        extract([folder], tmp_path / "none.npz", weights=exported[1], skip_damaged=True)


def test_damaged_videos_end_it_or_are_left_out(exported, places, tmp_path, capsys):
    video, image, output = tmp_path / "walk.mp4", places / "photos" / "red" / "000.png", tmp_path / "features.npz"
    video.write_bytes((places / "street.mp4").read_bytes()[:500])
    arguments = ["features", str(video), str(image), "--weights", str(exported[1]), "--output", str(output)]
    assert main(arguments) == 2
    assert "walk.mp4 cannot be opened" in capsys.readouterr().err
    assert main([*arguments, "--skip-damaged", "--every", "1"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f"left out: {video} cannot be opened")
    assert printed[1] == f"wrote {output}: features [1, 48]; 1 left out"
    with pytest.raises(InputError, match=r"nothing that can be read; the first says: .*walk\.mp4"):
        extract([video], tmp_path / "none.npz", weights=exported[1], skip_damaged=True)
    with pytest.raises(InputError, match="does not exist"):
        extract([video, tmp_path / "nowhere"], tmp_path / "none.npz", weights=exported[1], skip_damaged=True)


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_an_interrupted_write_leaves_nothing(exported, places, tmp_path, monkeypatch, suffix):
    output = tmp_path / f"features.{suffix}"
    output.write_text("an older file")
    real = extraction.evaluation_view
    seen = []

    def interrupted(image, size):
        seen.append(image)
        if len(seen) > 9:
            raise KeyboardInterrupt
        return real(image, size)

    monkeypatch.setattr(extraction, "evaluation_view", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract([places / "photos"], output, weights=exported[1], batch_size=8)
    assert output.read_text() == "an older file"
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["empty"], "holds no images"),
        (["photos", "--output", "features.csv"], "ends in .npz or .parquet"),
        (["photos", "--output", "photos"], "ends in .npz"),
        (["photos", "--size", "33"], "patch size 8 does not divide"),
        (["photos", "--size", "0"], "whole number from 1"),
        (["photos", "--size", "x"], "whole number from 1"),
        (["photos", "--every", "2"], "--every is about videos"),
        (["photos", "--step", "2"], "leave it out"),
        (["photos", "--workdir", "run"], "one of them"),
        (["photos", "--batch-size", "0"], "whole number from 1"),
        ([], "required: INPUT"),
    ],
)
def test_bad_requests_are_told_in_a_line_and_nothing_is_written(
    exported, places, tmp_path, monkeypatch, capsys, more, message
):
    (tmp_path / "photos").symlink_to(places / "photos")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    try:
        code = main(["features", "--weights", str(exported[1]), "--output", "features.npz", *more])
    except SystemExit as stopped:
        code = stopped.code
    error = capsys.readouterr().err
    assert code == 2 and message in error and error.count("\n") == 1, error
    assert sorted(tmp_path.iterdir()) == before


def test_parquet_without_pyarrow_is_told(exported, places, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs pyarrow, which is not installed: pip install 'ssljax\[parquet\]'"):
        extract([places / "photos"], tmp_path / "features.parquet", weights=exported[1])
