"""What tests read out of prepared videos."""

from videos import number_of

from data_prep.prepare import Settings
from ssljax.data.records import Records

ALL = Settings(every=1)


def stored_frames(index):
    """Return the records of all frames."""
    records = Records(index)
    return [records.stored(i) for i in range(len(index.times))]


def numbers(index):
    """Return what number each frame shows."""
    records = Records(index)
    return [number_of(records.decode(i)) for i in range(len(index.times))]


def contents(folder):
    """Return the bytes of a folder's files by name."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}
