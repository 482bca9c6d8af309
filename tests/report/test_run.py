"""`ssljax report` and `ssljax show views`, on a small prepared video and an untrained run."""

import json
from pathlib import Path

import jax
import pytest
from PIL import Image
from reading import Reader
from videos import make_video

from data_prep.prepare import Settings, prepare
from ssljax import build, configuration
from ssljax.errors import InputError
from ssljax.ops import keys as rng
from ssljax.report import run as report
from ssljax.report.clip import read_clip
from ssljax.report.sheet import show_views
from ssljax.step import TrainState

OVERRIDES = ("--config.data.gap=0.2", "--config.data.seconds=(0.0,3.0)")


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """4 seconds at 25 frames a second."""
    folder = tmp_path_factory.mktemp("street")
    return prepare(make_video(folder / "street.mp4"), folder / "street", Settings(1)).folder


@pytest.fixture(scope="module")
def config(street):
    return configuration.load("configs/dora.py:smoke", [f"--config.data.video={street}", *OVERRIDES])


@pytest.fixture
def workdir(config, tmp_path, monkeypatch):
    """The folder of a run that stands after no update, with twice the encoder's CLS token to tell it from the start."""
    objective = build.objective(config)
    params, state = objective.init(rng.named(jax.random.key(config.seed), "init"))
    state["teacher"]["encoder"]["cls"] = 2 * state["teacher"]["encoder"]["cls"] + 1
    restored = build.Restored(config, objective, TrainState(jax.numpy.zeros((), "int32"), params, state, None))
    monkeypatch.setattr(build, "restore", lambda workdir, step: restored)
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0}) + "\n")
    return tmp_path


def test_report_writes_a_page_with_its_pictures_inside_and_beside(workdir, street):
    (workdir / "weights.safetensors").write_bytes(b"")
    page = report.write_report(workdir, links=[workdir / "weights.safetensors"])
    assert page == workdir / "report" / "index.html"
    names = ("curves.png", "tracks_trained.png", "tracks_random.png", "tracks.gif", "attention.png", "features.png")
    for name in names:
        with Image.open(page.parent / name) as image:
            image.load()
    reader = Reader(page)
    reader.check_alone()
    assert len(reader.spoken) == len(names)
    assert [link for link in reader.links if not link.startswith("#")] == ["../weights.safetensors"]
    assert "teacher entropy" in reader.text
    assert "seconds 3.0 to 4.0, which training never used" in reader.text


@pytest.mark.long
def test_a_report_of_one_run_may_be_one_file_elsewhere(workdir, tmp_path):
    page = report.write_report(workdir, output=tmp_path / "new" / "page.html")
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]
    Reader(page).check_alone()


def test_what_a_report_cannot_use_is_named(workdir, tmp_path):
    (tmp_path / "file.txt").write_text("")
    for place in (tmp_path / "file.txt", tmp_path / "page.pdf"):
        with pytest.raises(InputError, match="folder, or a file that ends in .html"):
            report.write_report(workdir, output=place)
    for place in (Path("/proc/page.html"), Path("/proc/none"), tmp_path / "file.txt" / "page.html"):
        with pytest.raises(InputError, match="--output .* cannot be written"):
            report.write_report(workdir, output=place)
    with pytest.raises(InputError, match="--link"):
        report.write_report(workdir, links=[tmp_path / "none"])
    (workdir / "evaluate").mkdir()
    (workdir / "evaluate" / "broken.json").write_text("{")
    with pytest.raises(InputError, match=r"broken\.json"):
        report.write_report(workdir)


@pytest.mark.parametrize("given", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_page_without_the_runs_data_says_so(workdir, config, street, monkeypatch, given):
    away = config.copy_and_resolve_references().unlock()
    away.data.video = ("gone/street",)
    run = build.restore(workdir, None)._replace(config=away.lock())
    monkeypatch.setattr(build, "restore", lambda workdir, step: run)
    reader = Reader(report.write_report(workdir, video=street if given else None))
    assert f"{workdir}: no scores on samples" in reader.text
    assert "data.video: gone/street" in reader.text
    assert ("What it discovers and tracks" in reader.text) is given


@pytest.mark.parametrize(
    ("used", "seconds", "span", "unseen"),
    [
        ((0.0, 3.0), None, (3.0, 3.96), True),
        ((0.0, 3.0), (1.0, 2.0), (1.0, 1.96), False),
        ((2.0, 4.0), (1.0, 2.0), (1.0, 1.96), True),
        ((0.0, None), None, (0.0, 3.96), False),
        (None, None, (0.0, 3.96), False),
    ],
)
def test_clip_shows_what_training_left_out(street, used, seconds, span, unseen):
    clip = read_clip({"video": str(street), "seconds": used}, None, seconds)
    assert clip.unseen is unseen
    assert clip.times[0] == pytest.approx(span[0], abs=0.041)
    assert clip.times[-1] == pytest.approx(span[1], abs=0.09)
    assert 2 <= len(clip.frames) <= 50


def test_another_video_was_never_used(street):
    assert read_clip({"video": "nowhere", "seconds": None}, street, None).unseen


def test_a_part_without_frames_is_refused(street):
    with pytest.raises(InputError, match="0 frames in seconds 9 to 10"):
        read_clip({"video": str(street)}, None, (9.0, 10.0))
    with pytest.raises(InputError, match="--video"):
        read_clip({}, None, None)


def test_views_of_a_config_are_drawn(config, tmp_path):
    show_views(config, tmp_path / "pictures" / "views.png", samples=1)
    with Image.open(tmp_path / "pictures" / "views.png") as image:
        assert image.size[0] > 144 * (2 + 3 + 2)
        assert image.size[1] > 144 * 2


def test_views_of_images_are_drawn(street, tmp_path):
    config = configuration.load("configs/dino.py:smoke", [f"--config.data.video={street}"])
    show_views(config, tmp_path / "views.png", samples=2)
    with Image.open(tmp_path / "views.png") as image:
        assert image.size[0] > 144 * (1 + 2 + 2)
