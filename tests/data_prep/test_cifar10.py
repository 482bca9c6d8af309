"""Preparing CIFAR-10, from each of its archives."""

import io
import os
import pickle
import struct
import tarfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from pictures import encode, told
from prepared import contents

from data_prep import cifar10
from data_prep.images import main
from ssljax.data.images import decode
from ssljax.data.imageset import ImageSet

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
LABELS = [i % 10 for i in range(12)]
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def tar(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def batches():
    rows = PIXELS.transpose(0, 3, 1, 2).reshape(12, -1)
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        yield name, rows[2 * number : 2 * number + 2], LABELS[2 * number : 2 * number + 2]


class Python2(pickle._Pickler):
    """Writes what Python 2 wrote, as the official archive has it: strings without an encoding."""

    def save_string(self, value):
        data = value.encode("latin-1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)

    dispatch: ClassVar = {**pickle._Pickler.dispatch, bytes: save_string, str: save_string}


def dump(value):
    buffer = io.BytesIO()
    Python2(buffer, 2).dump(value)
    return buffer.getvalue().replace(b"numpy._core", b"numpy.core")


def python_archive(path, dump=dump):
    files = {f"cifar-10-batches-py/{name}": dump({"data": rows, "labels": labels}) for name, rows, labels in batches()}
    meta = dump({"label_names": list(NAMES)})
    return tar(path, files | {"cifar-10-batches-py/batches.meta": meta})


def binary_archive(path):
    files = {
        f"cifar-10-batches-bin/{name}.bin": np.concatenate([np.uint8(labels)[:, None], rows], axis=1).tobytes()
        for name, rows, labels in batches()
    }
    return tar(path, files | {"cifar-10-batches-bin/batches.meta.txt": "\n".join([*NAMES, ""]).encode()})


def jpeg_archive(path):
    arrays = {"classes": np.array(NAMES)}
    for split, part in (("train", slice(0, 10)), ("test", slice(10, 12))):
        jpegs = [encode(pixels, "JPEG", quality=100, subsampling=0) for pixels in PIXELS[part]]
        arrays[f"{split}_jpeg"] = np.frombuffer(b"".join(jpegs), np.uint8)
        arrays[f"{split}_offsets"] = np.cumsum([0, *map(len, jpegs)])
        arrays[f"{split}_labels"] = np.uint8(LABELS[part])
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("make", "name", "tolerance"),
    [(python_archive, "p.tar.gz", 0), (binary_archive, "b.tar.gz", 0), (jpeg_archive, "j.npz", 12)],
    ids=["python", "binary", "jpeg"],
)
def test_cifar10_from_each_kind_of_file(tmp_path, capsys, make, name, tolerance):
    command = ["cifar10", "--output", str(tmp_path / "out"), "--from", str(make(tmp_path / name))]
    assert main(command) == 0
    assert "2 images of 32x32 to 32x32 pixels, 10 classes" in capsys.readouterr().out
    train, test = ImageSet(tmp_path / "out" / "train"), ImageSet(tmp_path / "out" / "test")
    assert train.classes == test.classes == tuple(NAMES)
    assert train.labels().tolist() + test.labels().tolist() == LABELS
    found = [decode(images.encoded(i)) for images in (train, test) for i in range(images.count)]
    np.testing.assert_allclose(np.stack(found).astype(int), PIXELS.astype(int), atol=tolerance)
    before = contents(tmp_path / "out" / "train")
    assert main(command) == 0
    assert contents(tmp_path / "out" / "train") == before


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_pickles_run_no_code(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tar(tmp_path / "evil.tar.gz", {"batches.meta": pickle.dumps(Evil())})
    assert "which no archive of CIFAR-10 does" in told(capsys, ["cifar10", "--output", "out", "--from", path])
    assert not Path("evil").exists()


@pytest.mark.parametrize("damage", ["cut", "text", "missing"])
def test_damaged_archives_are_told(tmp_path, capsys, damage):
    path = python_archive(tmp_path / "p.tar.gz")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "text":
        path.write_text("hello")
    else:
        tar(path, {"cifar-10-batches-py/batches.meta": pickle.dumps({b"label_names": [b"a"]})})
    assert "is not an archive of CIFAR-10" in told(capsys, ["cifar10", "--output", tmp_path / "out", "--from", path])
    assert not (tmp_path / "out").exists()


def test_what_is_fetched_is_checked(tmp_path, capsys, monkeypatch):
    archive = python_archive(tmp_path / "served.tar.gz")
    monkeypatch.setattr(cifar10, "URL", archive.as_uri())
    assert "has the MD5" in told(capsys, ["cifar10", "--output", tmp_path / "out"])
    assert not list((tmp_path / "out").iterdir())
    monkeypatch.setattr(cifar10, "MD5", cifar10._md5(archive))
    for _ in range(2):
        assert main(["cifar10", "--output", str(tmp_path / "out")]) == 0
        monkeypatch.setattr(cifar10, "URL", "file:///nowhere")  # the second time it is not needed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["test", "train"]
    assert "cannot be fetched" in told(capsys, ["cifar10", "--output", tmp_path / "other"])


def test_the_real_cifar10(tmp_path):
    path = Path(__file__).parents[3] / "shared" / "data" / "images" / "cifar10_jpeg.npz"
    if not path.is_file():
        pytest.skip("no ../shared/data/images/cifar10_jpeg.npz")
    classes, splits = cifar10.read_archive(path)
    assert len(classes) == 10
    for split, count in (("train", 50_000), ("test", 10_000)):
        images, labels = splits[split]
        assert len(images) == count and np.bincount(labels).tolist() == [count // 10] * 10
