"""What was replaced is the same, and listed the same, however often a run is stopped."""

import json
import pickle
import shutil

import numpy as np
import pytest
from pictures import make_folder
from videos import flip, make_video

from data_prep.images import main
from data_prep.prepare import Settings, prepare
from ssljax.data.images import Images
from ssljax.data.imageset import ImageSet
from ssljax.data.listing import Listing, gather
from ssljax.data.loader import load
from ssljax.data.windows import Windows
from ssljax.errors import InputError

OPTIONS = dict(frames=2, gap=0.2, size=32, bad_share=0.5)
SIZE = 8


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A prepared video in which frames 30 and 31 of 100 are damaged."""
    folder = tmp_path_factory.mktemp("broken")
    prepare(make_video(folder / "a.mp4"), folder / "a", Settings(1), segment_seconds=10)
    flip(folder / "a", 30)
    flip(folder / "a", 31)
    return folder / "a"


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(windows, path, first, end, processes=1, **settings):
    """Read batches as a run does that is at update `first` and is stopped at `end`; return the samples by position."""
    samples = {}
    gather(path, "position", first * SIZE)
    for process in range(processes):
        windows.damage.listing = Listing(path, "position", process=process)
        mine = range(process * SIZE // processes, (process + 1) * SIZE // processes)
        with load(windows, rows=mine, batch_size=SIZE, position=first * SIZE, **settings) as batches:
            for _ in range(first, end):
                batch = next(batches)
                samples |= dict(zip(batch["position"].tolist(), batch["frames"], strict=True))
    return samples


def test_the_same_samples_and_the_same_list_after_every_restart(broken, tmp_path, capsys):
    whole = run(Windows(video=broken, **OPTIONS), tmp_path / "whole.jsonl", 0, 12)
    gather(tmp_path / "whole.jsonl", "position", 12 * SIZE)
    path, samples = tmp_path / "parts.jsonl", {}
    # Killed at updates 7, 5 and 9 (the rest had been read ahead, or done), continued at the last checkpoint each time.
    for first, end, processes in ((0, 7, 1), (4, 5, 2), (2, 9, 4), (8, 12, 1)):
        samples |= run(Windows(video=broken, **OPTIONS), path, first, end, processes, threads=3)
        with path.open("a") as file:
            file.write('{"position": 3, "dam')  # cut by the kill
    gather(path, "position", 12 * SIZE)
    assert sorted(samples) == list(range(12 * SIZE))
    assert all(np.array_equal(samples[position], whole[position]) for position in whole)
    assert path.read_text() == (tmp_path / "whole.jsonl").read_text()
    assert not list(tmp_path.glob("parts-*"))
    listed, sound = rows(path), Windows(video=broken, **OPTIONS)
    assert [row["position"] for row in listed] == sorted({row["position"] for row in listed})
    for row in listed:
        assert all("frame 3" in fault and "cannot be read" in fault for fault in row["damaged"])
        first, last = sound.describe(row["position"])["times"]
        assert f"({first:.3f} to {last:.3f} s) of {broken}" in row["instead"]
    read = {position for position in range(12 * SIZE) if "frames 30 " in sound.where(position)}
    assert read <= {row["position"] for row in listed}


@pytest.mark.long
def test_worker_processes_list_too(broken, tmp_path):
    lists = []
    for workers in (0, 2):
        path = tmp_path / f"{workers}.jsonl"
        run(Windows(video=broken, **OPTIONS), path, 0, 12, workers=workers)
        gather(path, "position", 12 * SIZE)
        lists.append(path.read_text())
    assert lists[0] == lists[1] != ""


def test_a_listing_travels(tmp_path):
    listing = pickle.loads(pickle.dumps(Listing(tmp_path / "a.jsonl", "position")))
    for position in (3, 1, 3):
        listing.add({"position": position})
    Listing(tmp_path / "a.jsonl", "position", process=2).add({"position": 1})
    Listing(tmp_path / "a.jsonl", "position", process=2).add({"position": 7})
    assert {path.name for path in tmp_path.iterdir()} == {"a.jsonl", "a-2.jsonl"}
    gather(tmp_path / "a.jsonl", "position", 7)
    assert [row["position"] for row in rows(tmp_path / "a.jsonl")] == [1, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_no_flipped_bit_of_an_image_gets_through(tmp_path):
    assert main([str(make_folder(tmp_path / "a", {"x": 6, "y": 6})), "--output", str(tmp_path / "set")]) == 0
    (file,) = (tmp_path / "set").glob("*.array_record")
    whole, sound, damaged = file.read_bytes(), ImageSet(tmp_path / "set"), 0
    expected, random = [sound.encoded(number) for number in range(12)], np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(whole)
        data[random.integers(len(data))] ^= 1 << random.integers(8)
        file.write_bytes(data)
        images = ImageSet(tmp_path / "set")
        for number in range(12):
            try:
                assert images.encoded(number) == expected[number]
            except InputError:
                damaged += 1
    assert damaged >= 5


def test_replaced_images_are_listed(tmp_path, capsys):
    assert main([str(make_folder(tmp_path / "a", {"x": 6, "y": 6})), "--output", str(tmp_path / "set")]) == 0
    (file,) = (tmp_path / "set").glob("*.array_record")
    images = Images(data=tmp_path / "set", size=16, bad_share=1.0)
    encoded = ImageSet(tmp_path / "set").encoded(5)
    content = file.read_bytes()
    at = content.index(encoded[len(encoded) // 2 :])
    file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    images.damage.listing = Listing(tmp_path / "damaged.jsonl", "position")
    for position in range(12):
        images[position]
    (row,) = rows(tmp_path / "damaged.jsonl")
    assert f"image 5 ({images.where(row['position']).split('(')[1].split(')')[0]})" in row["damaged"][0]
    assert images.describe(row["position"])["image"] in row["instead"]
    shutil.rmtree(tmp_path / "set")
