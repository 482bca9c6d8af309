"""Preparing folders of images and CIFAR-10."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pictures import encode, make_folder, smooth, told
from prepared import contents

from data_prep import imageset as program
from data_prep.images import main
from data_prep.pictures import Picture
from ssljax.data.images import decode
from ssljax.data.imageset import ImageSet, read_image_index
from ssljax.errors import InputError


@pytest.fixture
def folder(tmp_path):
    """12 cats and 9 dogs."""
    return make_folder(tmp_path / "pets", {"dog": 9, "cat": 12})


def test_class_folders_become_labels(folder, tmp_path, capsys):
    (folder / "cat" / "README.txt").write_text("cats")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "a.png").write_bytes(b"")
    assert main([str(folder), "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "21 images of 48x48 to 48x48 pixels, 2 classes" in said and "not images: 1 .txt" in said
    images = ImageSet(tmp_path / "out")
    assert (images.count, images.classes) == (21, ("cat", "dog"))
    assert images.labels().tolist() == [0] * 12 + [1] * 9
    assert images.name(0) == "cat/000.png" and images.name(20) == "dog/008.png"
    for number in (0, 20):
        np.testing.assert_array_equal(
            decode(images.encoded(number)), decode((folder / images.name(number)).read_bytes())
        )


@pytest.mark.parametrize("layout", ["flat", "one folder", "deep", "some at the top"])
def test_other_folders_have_no_labels(folder, tmp_path, layout):
    if layout == "flat":
        place = folder / "cat"
    elif layout == "one folder":
        shutil.rmtree(folder / "dog")
        place = folder
    elif layout == "deep":
        place = folder.parent / "deep"
        place.mkdir()
        folder.rename(place / "train")
    else:
        (folder / "cat" / "000.png").rename(folder / "000.png")
        place = folder
    assert main([str(place), "--output", str(tmp_path / "out")]) == 0
    index = read_image_index(tmp_path / "out")
    assert index.labels is None and index.classes == ()


def test_the_checksum_names_the_data(folder, tmp_path):
    for name, more in (("a", []), ("b", []), ("c", ["--short-side", "40"])):
        assert main([str(folder), "--output", str(tmp_path / name), *more]) == 0
    a, b, c = (read_image_index(tmp_path / name).checksum for name in "abc")
    assert a == b != c
    before = contents(tmp_path / "a")
    assert main([str(folder), "--output", str(tmp_path / "a")]) == 0  # done already
    assert contents(tmp_path / "a") == before
    (folder / "cat" / "new.png").write_bytes(encode(smooth(5), "PNG"))
    assert main([str(folder), "--output", str(tmp_path / "a")]) == 2  # another source
    assert contents(tmp_path / "a") == before


def test_bad_images_are_named_and_too_many_refused(folder, tmp_path, capsys):
    (folder / "cat" / "004.png").write_bytes((folder / "cat" / "004.png").read_bytes()[:-100])
    (folder / "dog" / "000.png").write_bytes(b"")
    error = told(capsys, [folder, "--output", tmp_path / "out", "--bad-share", "0.06"])
    assert "2 of 21 images of out cannot be read" in error
    assert "cat/004.png (image file is truncated), dog/000.png (it is empty)" in error
    assert not (tmp_path / "out" / "index.json").exists()
    assert main([str(folder), "--output", str(tmp_path / "out"), "--bad-share", "0.1"]) == 0
    said = capsys.readouterr().out
    assert "19 images" in said and "left out: dog/000.png (it is empty)" in said
    index = read_image_index(tmp_path / "out")
    assert [name for name, _ in index.bad] == ["cat/004.png", "dog/000.png"]
    assert len(index.names) == 19 and index.labels.tolist() == [0] * 11 + [1] * 8
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["images-00000.array_record", "index.json"]


def test_a_link_to_nothing_is_an_image_that_cannot_be_read(folder, tmp_path, capsys):
    (folder / "dog" / "gone.png").symlink_to(folder / "nothing.png")
    assert "dog/gone.png (it is a link to nothing)" in told(capsys, [folder, "--output", tmp_path / "out"])
    assert main([str(folder), "--output", str(tmp_path / "out"), "--bad-share", "0.1"]) == 0
    assert read_image_index(tmp_path / "out").bad == (("dog/gone.png", "it is a link to nothing"),)


def test_images_that_cannot_be_opened_end_the_preparation(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Path, "read_bytes", lambda path: (_ for _ in ()).throw(OSError(5, "broken", str(path))))
    assert main([str(folder), "--output", str(tmp_path / "out")]) == 1
    assert "broken" in capsys.readouterr().err


def source(count, pause=0.0):
    def picture(number):
        time.sleep(pause)
        return Picture(encode(smooth(number, 8, 8), "PNG"), 8, 8)

    return program.Source({"made": count}, [f"{i}" for i in range(count)], [100] * count, [], None, picture)


def test_segments_by_number_and_by_bytes():
    assert program._segments([1] * 25, 10) == [range(0, 10), range(10, 20), range(20, 25)]
    assert program._segments([2**29, 2**29, 1, 2**31, 1], 10) == [range(0, 2), range(2, 3), range(3, 4), range(4, 5)]


def test_killed_and_run_again(tmp_path):
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, 'tests/data_prep'); sys.path.insert(0, 'tests');"
        "import test_images as t; from data_prep.imageset import write_set;"
        "write_set(t.source(100, 0.02), Path(sys.argv[1]), {}, bad_share=0, threads=2, segment_images=20)"
    )
    output, whole = tmp_path / "killed", tmp_path / "whole"
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", code, str(output)], cwd=root, stderr=subprocess.PIPE)
    while not (output / "segment-00001.json").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with pytest.raises(InputError, match="index.json is missing"):
        read_image_index(output)
    kept = (output / "images-00001.array_record").stat().st_mtime_ns
    for place in (output, whole):
        program.write_set(source(100), place, {}, bad_share=0, segment_images=20)
    assert (output / "images-00001.array_record").stat().st_mtime_ns == kept
    assert contents(output) == contents(whole)
    assert ImageSet(output).count == 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--output", "out"], "nowhere is not a folder"),
        (["empty", "--output", "out"], "empty holds no images"),
        (["pets", "--output", "pets"], "pets holds files that are not a preparation's"),
        (["pets", "--output", "out", "--quality", "101"], "--quality 101"),
        (["pets", "--output", "out", "--short-side", "0"], "--short-side 0"),
        (["pets", "--output", "out", "--bad-share", "1.5"], "--bad-share 1.5"),
        (["pets", "--output", "out", "--threads", "0"], "--threads 0"),
        (["pets", "--output", "out", "--from", "x"], "--from goes with cifar10"),
        (["cifar10", "--output", "out", "--from", "x.tar.gz"], "x.tar.gz is not a file"),
        (["pets"], "--output"),
    ],
)
def test_bad_arguments(folder, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    assert message in told(capsys, arguments)
    assert not Path("out").exists()


def test_the_index_is_plain(folder, tmp_path):
    assert main([str(folder), "--output", str(tmp_path / "out")]) == 0
    raw = json.loads((tmp_path / "out" / "index.json").read_text())
    assert (raw["version"], raw["kind"], raw["count"]) == (1, "images", 21)
    assert {"classes", "labels", "names", "sizes", "segments", "source", "settings", "bad"} <= set(raw)
