"""Preparation, on files whose frames show their number."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from prepared import ALL, contents, numbers
from videos import make_video, number_of

from data_prep import prepare as program
from data_prep.prepare import Settings, prepare
from ssljax.data.records import Records
from ssljax.errors import InputError


@pytest.mark.parametrize(("every", "step"), [(1, 1), (7, 7), (None, 4)])
def test_every_nth_frame_is_stored_once_with_its_time(source, tmp_path, every, step):
    index = prepare(source, tmp_path / "out", Settings(every), segment_seconds=1)
    assert numbers(index) == list(range(0, 200, step))
    np.testing.assert_allclose(index.times, np.arange(0, 200, step) / 25, atol=1e-6)
    assert index.duration == pytest.approx(8.0)
    assert (index.width, index.height, index.dropped) == (128, 128, ())
    assert index.settings["every"] == step
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == sorted(
        ["index.json", "contact.jpg", *(segment.file for segment in index.segments)]
    )


def test_threads_change_nothing(source, reference, tmp_path):
    prepare(source, tmp_path / "out", ALL, segment_seconds=1, threads=4)
    assert contents(tmp_path / "out") == contents(reference[0].folder)


def test_scaled_down_and_never_up(source, tmp_path):
    small = prepare(source, tmp_path / "small", Settings(every=20, short_side=64))
    assert (small.width, small.height) == (64, 64) and numbers(small) == list(range(0, 200, 20))
    assert Records(small).decode(3).shape == (64, 64, 3)
    assert prepare(source, tmp_path / "large", Settings(every=20, short_side=4000)).width == 128


def test_again_is_nothing_and_otherwise_is_refused(source, reference, tmp_path):
    out = tmp_path / "out"
    first = prepare(source, out, Settings(every=10))
    before = {file: file.stat().st_mtime_ns for file in out.iterdir()}
    assert prepare(source, out, Settings(every=10)).checksum == first.checksum
    with pytest.raises(InputError, match="with other settings .every 10 instead of 5"):
        prepare(source, out, Settings(every=5))
    other = make_video(tmp_path / "street.mp4", 40)
    with pytest.raises(InputError, match="from another file"):
        prepare(other, out, Settings(every=10))
    assert {file: file.stat().st_mtime_ns for file in out.iterdir()} == before
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not a preparation's"):
        prepare(source, tmp_path / "foreign", ALL)


def test_contact_sheet(source, reference):
    sheet = simplejpeg.decode_jpeg((reference[0].folder / "contact.jpg").read_bytes())
    assert sheet.shape == (4 * 240, 6 * 240, 3)
    pictures = sheet.reshape(4, 240, 6, 240, 3).swapaxes(1, 2).reshape(24, 240, 240, 3)
    shown = [number_of(picture) & 0x0FFF for picture in pictures]  # the time is written over the lowest blocks
    assert shown == np.linspace(0, 199, 24).round().astype(int).tolist()
    small = prepare(source, reference[0].folder.parent / "few", Settings(every=50))
    assert simplejpeg.decode_jpeg((small.folder / "contact.jpg").read_bytes()).shape == (240, 4 * 240, 3)


def test_files_are_for_others_to_read(source, tmp_path):
    prepare(source, tmp_path / "out", Settings(every=20))
    previous = os.umask(0)
    os.umask(previous)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "out").iterdir()} == {0o666 & ~previous}


def test_a_name_that_could_be_an_address(source, reference, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(source, "day:1.mp4")
    assert np.array_equal(prepare("day:1.mp4", "out", ALL).times, reference[0].times)


def test_command_line(source, tmp_path):
    command = [
        sys.executable,
        "-m",
        "data_prep.video",
        str(source),
        "--output",
        str(tmp_path / "out"),
        "--short-side",
        "64",
    ]
    done = subprocess.run(
        command, cwd=Path(program.__file__).parents[1], capture_output=True, text=True, env=os.environ
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "50 frames of 64x64 (every 4), 8.0 s" in done.stdout and "contact.jpg" in done.stdout
    index = json.loads((tmp_path / "out" / "street" / "index.json").read_text())
    assert index["name"] == "street" and index["source"]["file"] == "street.mp4"
    assert str(tmp_path) not in json.dumps(index), "the index must not depend on where it was made"
