"""A video and its preparation."""

import pytest
from prepared import ALL, stored_frames
from videos import make_video

from data_prep.prepare import prepare


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """8 s, 200 frames in groups of 20, the index at the end of the file."""
    return make_video(tmp_path_factory.mktemp("source") / "street.mp4", 200)


@pytest.fixture(scope="session")
def reference(source):
    """The undamaged preparation, in segments of two groups: its frames as bytes."""
    index = prepare(source, source.parent / "reference", ALL, segment_seconds=1)
    return index, stored_frames(index)
