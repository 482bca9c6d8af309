"""Preparation of what is no video, with wrong arguments, or to where nothing can be written."""

import errno
import functools
import os
import shutil
from pathlib import Path

import pytest
from prepared import ALL
from videos import make_sound, make_video

from data_prep import store
from data_prep.prepare import prepare
from data_prep.video import main
from ssljax.errors import InputError

BAD = {
    "missing.mp4": "does not exist",
    "empty.mp4": "is empty",
    "nomoov.mp4": "cannot be opened",
    "sound.m4a": "holds no video, only sound",
    "words.mp4": "cannot be opened",
    "words.txt": "holds no video",
    "picture.png": "holds no video",
    "folder.mp4": "is not a file",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(source, tmp_path, capsys, name):
    path, out = tmp_path / name, tmp_path / "out"
    if name == "empty.mp4":
        path.touch()
    elif name == "nomoov.mp4":
        path.write_bytes(source.read_bytes()[:50000])
    elif name == "sound.m4a":
        make_sound(path)
    elif name.startswith("words"):
        path.write_text("not a video at all\n" * 500)
    elif name == "picture.png":
        from PIL import Image

        Image.new("RGB", (64, 64)).save(path)
    elif name == "folder.mp4":
        path.mkdir()
    good = make_video(tmp_path / "good.mp4", 40)
    assert main([str(good), str(path), "--output", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and BAD[name] in error and str(path) in error
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--output"),
        (["--output", "OUT", "--every", "0"], "--every 0"),
        (["--output", "OUT", "--every", "two"], "--every"),
        (["--output", "OUT", "--quality", "101"], "--quality 101"),
        (["--output", "OUT", "--short-side", "8"], "--short-side 8"),
        (["--output", "OUT", "--chroma", "422"], "--chroma 422"),
        (["--output", "OUT", "--shard", "3/2"], "--shard: 3/2 must be I/N"),
        (["--output", "OUT", "--shard", "half"], "--shard: half must be I/N"),
        (["--output", "OUT", "--threads", "0"], "--threads 0"),
        (["--output", "OUT", "--threads", "-1"], "--threads -1"),
        (["--output", "OUT", "--blur", "..x"], "--blur ..x cannot be imported"),
        (["--output", "OUT", "--colour"], "--colour"),
    ],
)
def test_bad_arguments(source, tmp_path, capsys, arguments, message):
    out = tmp_path / "out"
    assert main([str(source), *(str(out) if a == "OUT" else a for a in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert not out.exists()


@pytest.mark.parametrize("kind", ["inside a file", "not permitted", "full disk"])
def test_output_that_cannot_be_written(source, tmp_path, capsys, monkeypatch, kind):
    out = tmp_path / "out"
    if kind == "inside a file":
        out.write_text("mine")
    elif kind == "full disk":
        monkeypatch.setattr(os, "fsync", functools.partial(fails, OSError(errno.ENOSPC, "No space left on device")))
    else:  # whoever runs the tests may be permitted everything
        monkeypatch.setattr(Path, "mkdir", functools.partial(fails, PermissionError(errno.EACCES, "Permission denied")))
    assert main([str(source), "--output", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "street cannot be written" in error and "choose another --output" in error
    if kind == "inside a file":
        assert out.read_text() == "mine"


@pytest.mark.parametrize("method", ["write", "close"])
def test_a_disk_that_is_full_in_the_middle(source, tmp_path, capsys, monkeypatch, method):
    """ArrayRecord's own words for it, seen on a small file system."""

    class Full(store.ArrayRecordWriter):
        pass

    setattr(Full, method, functools.partial(fails, RuntimeError("write() failed: No space left on device; at byte 8")))
    monkeypatch.setattr(store, "ArrayRecordWriter", Full)
    assert main([str(source), "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "No space left on device" in error and "run the same command again" in error
    monkeypatch.undo()
    assert main([str(source), "--output", str(tmp_path / "out")]) == 0


def fails(error, *arguments, **options):
    raise error


def test_two_files_of_one_name(source, tmp_path, capsys):
    other = make_video(tmp_path / "street.mkv", 40)
    assert main([str(source), str(other), "--output", str(tmp_path / "out")]) == 2
    assert "would both become" in capsys.readouterr().err


def test_a_name_that_is_not_text(source, tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.mp4")
    shutil.copy(source, path)
    with pytest.raises(InputError, match="is not a name in UTF-8"):
        prepare(path, tmp_path / path.stem, ALL)
    assert not (tmp_path / path.stem).exists()
