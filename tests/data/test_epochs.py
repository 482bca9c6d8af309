"""The order of training images, and their crops."""

import numpy as np
import pytest
from pictures import make_folder

from ssljax.cli import main
from ssljax.data.epochs import shuffled, training_batches
from ssljax.data.images import Labelled

COUNTS = {"a": 7, "b": 6}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_folder(folder / "raw", COUNTS)
    assert main(["prepare", "images", str(folder / "raw"), "--output", str(folder / "set")]) == 0
    return Labelled(folder / "set", size=16)


def test_every_number_once_an_epoch():
    batches = list(shuffled(10, batch_size=4, steps=10, seed=3))
    assert {batch.shape for batch in batches} == {(4,)}
    epochs = np.concatenate(batches).reshape(4, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert not np.array_equal(epochs[0], next(shuffled(10, batch_size=10, steps=1, seed=4)))


def read(labelled, **changes):
    return list(training_batches(labelled, **(dict(rows=range(6), batch_size=6, steps=5, seed=1) | changes)))


def test_a_process_reads_its_rows_of_the_same_batches(labelled):
    whole = read(labelled)
    assert len(whole) == 5
    for part in ([0, 1, 2], [3, 4, 5]):
        for one, batch in zip(read(labelled, rows=part), whole, strict=True):
            np.testing.assert_array_equal(one["input"], batch["input"][part])
            np.testing.assert_array_equal(one["label"], batch["label"][part])
    # The first colour channel is bright in class a, the second in class b.
    for batch in whole:
        assert batch["input"].shape == (6, 16, 16, 3) and batch["input"].dtype == np.uint8
        np.testing.assert_array_equal(batch["input"].mean((1, 2))[:, :2].argmax(1), batch["label"])


def test_the_whole_image_is_only_mirrored(labelled, monkeypatch):
    """Cut to the whole image, half of the views are the image itself and half its mirror image."""
    monkeypatch.setattr("ssljax.data.epochs._RATIO", (1.0, 1.0))
    still = {image.tobytes() for images, _ in labelled_whole(labelled) for image in images}
    mirrored = {image[:, ::-1].tobytes() for images, _ in labelled_whole(labelled) for image in images}
    views = [
        view.tobytes()
        for batch in read(labelled_at(labelled, 48), scale=(1.0, 1.0), steps=40)
        for view in batch["input"]
    ]
    assert all((view in still) != (view in mirrored) for view in views)
    flips = sum(view in mirrored for view in views)
    assert 80 < flips < 160  # of 240: five deviations around a half


def labelled_at(labelled, size):
    return Labelled(labelled.source, size=size)


def labelled_whole(labelled):
    return labelled_at(labelled, 48)
