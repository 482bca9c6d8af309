import json
import shutil

import pytest
from videos import make_video

from data_prep.prepare import Settings, prepare
from ssljax.data.index import find_videos, read_index
from ssljax.errors import InputError


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    return prepare(make_video(folder / "a.mp4", 40), folder / "videos" / "a", Settings(4)).folder


@pytest.fixture
def copy(original, tmp_path):
    return shutil.copytree(original.parent, tmp_path / "videos") / "a"


def test_the_checksum_names_the_data(original, copy, tmp_path):
    assert read_index(original).checksum == read_index(copy).checksum
    again = prepare(original.parents[1] / "a.mp4", tmp_path / "b", Settings(4))
    assert again.checksum == read_index(original).checksum
    other = prepare(original.parents[1] / "a.mp4", tmp_path / "c", Settings(4, quality=84))
    assert other.checksum != again.checksum


def test_a_folder_of_videos(copy):
    shutil.copytree(copy, copy.parent / "b")
    assert [index.folder.name for index in find_videos(copy.parent)] == ["a", "b"]
    assert [index.folder.name for index in find_videos([copy.parent / "b", copy])] == ["b", "a"]
    with pytest.raises(InputError, match="named twice"):
        find_videos([copy, copy])


def test_an_unfinished_preparation_is_not_left_out(copy):
    (copy.parent / "b").mkdir()
    with pytest.raises(InputError, match=r"b holds no prepared video \(index.json is missing\)"):
        find_videos(copy.parent)


def damage(folder, kind):
    path, records = folder / "index.json", folder / "frames-00000.array_record"
    raw = json.loads(path.read_text())
    if kind == "no json":
        path.write_text("{")
    elif kind == "no key":
        path.write_text(json.dumps({"version": 3}))
    elif kind == "no object":
        path.write_text("[1]")
    elif kind == "version":
        path.write_text(json.dumps(raw | {"version": 9}))
    elif kind == "times":
        path.write_text(json.dumps(raw | {"times": raw["times"][:-1]}))
    elif kind == "missing":
        records.unlink()
    elif kind == "short":
        records.write_bytes(records.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no json", "is not the index"),
        ("no key", "is not the index"),
        ("no object", "is not the index"),
        ("version", "has version 9, this program reads 3: prepare the video again"),
        ("times", "contradicts itself"),
        ("missing", "frames-00000.array_record is missing"),
        ("short", "bytes instead of"),
    ],
)
def test_damage_is_told(copy, kind, message):
    damage(copy, kind)
    with pytest.raises(InputError, match=message):
        read_index(copy)
