"""CIFAR-10 (Krizhevsky 2009) as a source: from its archives, or from JPEG bytes in a NumPy archive.

`cifar-10-python.tar.gz` holds pickles, `cifar-10-binary.tar.gz` plain bytes. An `.npz` holds `classes` (names) and, for
SPLIT train and test, `SPLIT_jpeg` (uint8, all JPEG files one after the other), `SPLIT_offsets` (image i is the bytes
from offsets[i] to offsets[i + 1]) and `SPLIT_labels`.
"""

from __future__ import annotations

import codecs
import functools
import hashlib
import io
import itertools
import pickle
import tarfile
import urllib.request
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_prep.imageset import Source, finished_set, write_set
from data_prep.pictures import Picture, encode_png, to_picture
from data_prep.store import temporary
from ssljax.data.imageset import ImageIndex
from ssljax.errors import InputError

FILE = "cifar-10-python.tar.gz"
URL = f"https://www.cs.toronto.edu/~kriz/{FILE}"
MD5 = "c58f30108f718f92721af3b95e74349a"
SPLITS = "train", "test"
_SIDE = 32
_BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}

Split = tuple[Any, np.ndarray]  # pixels uint8 [32, 32, 3] or JPEG bytes of each image; labels


def prepare_cifar10(output: Path, archive: Path | None, *, progress: bool = False) -> list[ImageIndex]:
    """Prepare DIR/train and DIR/test, from the official archive on the network unless a file is named.

    InputError where it cannot be fetched, is not what it should be, or the folders hold something else.
    """
    if archive is None:
        done = [finished_set(output / split, _material(FILE, MD5, split), {}) for split in SPLITS]
        if all(done):
            return [index for index in done if index]
        archive = output / FILE
        if not archive.is_file() or _md5(archive) != MD5:
            fetch(URL, archive, MD5, progress=progress)
        indexes = prepare_cifar10(output, archive, progress=progress)
        archive.unlink()
        return indexes
    if not archive.is_file():
        raise InputError(f"{archive} is not a file: name {FILE}, or leave --from out to fetch it")
    md5 = _md5(archive)
    done = [finished_set(output / split, _material(archive.name, md5, split), {}) for split in SPLITS]
    if all(done):
        return [index for index in done if index]
    classes, splits = read_archive(archive)
    return [
        write_set(
            _source(_material(archive.name, md5, split), split, classes, splits[split]),
            output / split,
            {},
            bad_share=0.0,
            progress=progress,
        )
        for split in SPLITS
    ]


def _material(file: str, md5: str, split: str) -> dict[str, Any]:
    return {"file": file, "md5": md5, "split": split}


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def fetch(url: str, path: Path, md5: str, *, progress: bool = False) -> None:
    """Fetch a file; it is there whole and with this checksum or not at all, and then InputError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, temporary(path) as unfinished:
            total = int(answer.headers.get("Content-Length", 0)) or None
            bar = tqdm(total=total, unit="B", unit_scale=True, desc=path.name, disable=not progress)
            with bar, unfinished.open("wb") as file:
                while piece := answer.read(2**20):
                    file.write(piece)
                    digest.update(piece)
                    bar.update(len(piece))
            if digest.hexdigest() != md5:
                unfinished.unlink()
    except (OSError, ValueError) as error:
        raise InputError(f"{url} cannot be fetched ({error}): fetch it elsewhere and name it with --from") from error
    if digest.hexdigest() != md5:
        raise InputError(f"what {url} gave has the MD5 {digest.hexdigest()}, not {md5}: try again, or use --from")


def read_archive(path: Path) -> tuple[list[str], dict[str, Split]]:
    """(class names, the two splits) of any of the three kinds of file; InputError if it is none of them."""
    try:
        if path.suffix == ".npz":
            return _read_npz(path)
        with tarfile.open(path, "r:*") as archive:
            files = {
                Path(member.name).name: archive.extractfile(member).read()  # type: ignore[union-attr]  # a file
                for member in archive
                if member.isfile()
            }
        return _read_python(files) if "batches.meta" in files else _read_binary(files)
    except (
        *(OSError, EOFError, KeyError, ValueError, TypeError, IndexError),
        *(tarfile.TarError, zlib.error, zipfile.BadZipFile, pickle.UnpicklingError),
    ) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path} is not an archive of CIFAR-10 ({type(error).__name__}: {reason}): give {FILE}, the binary "
            "version, or an .npz of JPEG bytes"
        ) from error


def _read_python(files: dict[str, bytes]) -> tuple[list[str], dict[str, Split]]:
    classes = [name.decode() for name in _unpickle(files["batches.meta"])[b"label_names"]]
    splits = {}
    for split, names in _BATCHES.items():
        batches = [_unpickle(files[name]) for name in names]
        pixels = np.concatenate([np.asarray(batch[b"data"], np.uint8) for batch in batches])
        labels = np.concatenate([np.asarray(batch[b"labels"], np.int64) for batch in batches])
        splits[split] = _checked(pixels, labels, len(classes))
    return classes, splits


def _read_binary(files: dict[str, bytes]) -> tuple[list[str], dict[str, Split]]:
    classes = files["batches.meta.txt"].decode().split()
    splits = {}
    for split, names in _BATCHES.items():
        rows = np.frombuffer(b"".join(files[f"{name}.bin"] for name in names), np.uint8)
        rows = rows.reshape(-1, 1 + 3 * _SIDE**2)
        splits[split] = _checked(rows[:, 1:], rows[:, 0].astype(np.int64), len(classes))
    return classes, splits


def _read_npz(path: Path) -> tuple[list[str], dict[str, Split]]:
    with np.load(path, allow_pickle=False) as arrays:
        classes = [str(name) for name in arrays["classes"]]
        splits: dict[str, Split] = {}
        for split in SPLITS:
            data, ends = arrays[f"{split}_jpeg"].tobytes(), arrays[f"{split}_offsets"].tolist()
            images = [data[a:b] for a, b in itertools.pairwise(ends)]
            splits[split] = images, _known(arrays[f"{split}_labels"].astype(np.int64), len(images), len(classes))
    return classes, splits


def _checked(pixels: np.ndarray, labels: np.ndarray, classes: int) -> Split:
    """Rows of red, green and blue planes as images [n, 32, 32, 3]."""
    images = pixels.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    return images, _known(labels, len(images), classes)


def _known(labels: np.ndarray, images: int, classes: int) -> np.ndarray:
    if labels.shape != (images,) or not images or not ((labels >= 0) & (labels < classes)).all():
        raise ValueError(f"{images} images, but labels {labels.shape} of {classes} classes")
    return labels


class _Unpickler(pickle.Unpickler):
    """Makes NumPy arrays of numbers and nothing else: a pickle can name any function of any module."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return _empty_array
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):  # how newer Pythons write bytes for older ones
            return codecs.encode
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no archive of CIFAR-10 does")


def _empty_array(kind: type, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """What NumPy's `_reconstruct` returns: an array that the pickle then fills."""
    return np.empty((0,), np.uint8)


def _unpickle(data: bytes) -> dict[bytes, Any]:
    return _Unpickler(io.BytesIO(data), encoding="bytes").load()


def _source(material: dict[str, Any], split: str, classes: list[str], images: Split) -> Source:
    pictures, labels = images
    sizes = [len(picture) if isinstance(picture, bytes) else picture.nbytes for picture in pictures]
    names = [f"{split}/{number:05d}" for number in range(len(pictures))]
    return Source(material, names, sizes, classes, labels.tolist(), functools.partial(_picture, pictures))


def _picture(pictures: Sequence[Any], number: int) -> Picture:
    picture = pictures[number]
    if isinstance(picture, bytes):
        return to_picture(picture)
    return Picture(encode_png(np.ascontiguousarray(picture)), _SIDE, _SIDE)
