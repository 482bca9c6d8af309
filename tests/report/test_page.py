"""The page is whole HTML, escapes what it is given, and holds all its pictures."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from reading import Reader

from ssljax.report.page import (
    Alert,
    Best,
    Code,
    Figure,
    Gallery,
    Legend,
    Links,
    Section,
    Table,
    Text,
    write_page,
)

NASTY = "<script>alert(\"x\")</script> & 'more'"


def noise(side):
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    noise(300).save(folder / "a b.png")
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:], duration=100, loop=0)
    path = write_page(
        folder / "new" / "index.html",
        title=f"Title {NASTY}",
        summary=f"Summary {NASTY}",
        sections=[
            Section("Numbers", [Table(("", "trained", "random"), [("teacher <entropy>", Best("1.5"), Text("2 & 3"))])]),
            Section("Curves", [Figure(f"Heading {NASTY}", folder / "a b.png", f"Caption {NASTY}"), f"Note {NASTY}"]),
            Section("Small", [Gallery([Figure("", noise(20), 'small "one"')]), Legend([(f"run {NASTY}", "#123456")])]),
            Section("Moving", [Figure("", folder / "moving.gif", "It moves"), Alert(f"Beware {NASTY}")]),
            Section("Files", [Links([("../export/encoder 1.pth", "weights <pth>")])]),
            Section("Inside", [Section("Nested", [Code("ssljax train --config <file>")], closed=True)]),
            Section("Closed", ["Hidden"], closed=True),
        ],
    )
    return path, Reader(path)


def test_text_arrives_escaped_and_whole(page):
    _, reader = page
    for part in ("Title", "Summary", "Heading", "Caption", "Note", "run", "Beware"):
        assert f"{part} {NASTY}" in reader.text
    for expected in ("teacher <entropy>", "2 & 3", "ssljax train --config <file>", "weights <pth>", "Hidden"):
        assert expected in reader.text
    assert 'small "one"' in reader.spoken
    assert "<b>1.5</b>" in page[0].read_text()


def test_nothing_comes_from_elsewhere(page):
    _, reader = page
    reader.check_alone()
    assert [link for link in reader.links if not link.startswith("#")] == ["../export/encoder%201.pth"]


def decoded(source):
    kind, _, data = source.partition(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.format.lower() == kind.removeprefix("data:image/")
    return image


def test_pictures_inside_are_those_given(page):
    heavy, small, still, moving = map(decoded, page[1].sources)
    assert (heavy.format, heavy.size) == ("JPEG", (300, 300))  # 270 kB as PNG
    assert np.abs(np.asarray(heavy, int) - np.asarray(noise(300), int)).mean() < 8  # noise, the worst for JPEG
    np.testing.assert_array_equal(np.asarray(small), np.asarray(noise(20)))
    assert (moving.n_frames, moving.info["loop"]) == (2, 0)
    assert getattr(still, "n_frames", 1) == 1
    assert still.convert("RGB").getpixel((0, 0)) == (255, 0, 0)


def test_who_wants_no_motion_sees_a_still(page):
    text = page[0].read_text()
    assert '<source media="(prefers-reduced-motion: reduce)" srcset="data:image/png' in text


def test_contents_lead_to_the_sections_that_show(page):
    path, reader = page
    anchors = [link for link in reader.links if link.startswith("#")]
    assert len(anchors) == 6
    assert all(f'id="{anchor[1:]}"' in path.read_text() for anchor in anchors)


def test_a_short_page_has_no_contents(tmp_path):
    path = write_page(tmp_path / "index.html", title="One", summary="", sections=[Section("Only", ["text"])])
    assert "nav" not in Reader(path).tags


def test_readable_on_a_phone_and_in_the_dark(page):
    text = page[0].read_text()
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert "no-repeat local" in text  # the shadow of a table that goes on to the right
