"""The page is whole HTML, escapes what it is given, and needs nothing from elsewhere."""

from html.parser import HTMLParser

import pytest

from ssljax.report.page import Figure, Table, write_page

NASTY = "<script>alert(\"x\")</script> & 'more'"
VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Collects texts, sources and links, and checks that tags close in order."""

    def __init__(self):
        super().__init__()
        self.open, self.texts, self.sources, self.tags = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = write_page(
        tmp_path_factory.mktemp("report"),
        title=f"Title {NASTY}",
        summary=f"Summary {NASTY}",
        table=Table(("", "trained", "random"), [("teacher <entropy>", "1.5", "2 & 3")]),
        figures=[Figure("Curves", "a b.png", f"Caption {NASTY}")],
        command="ssljax train --config <file>",
        config={"data": {"video": [NASTY], "gap": 0.2}, "seed": 0},
        links=[("../export/encoder.pth", "weights <pth>")],
        notes=[f"Note {NASTY}"],
    )
    reader = Reader()
    reader.feed(path.read_text())
    return path, reader


def test_every_tag_closes(page):
    _, reader = page
    assert reader.open == []


def test_text_arrives_escaped_and_whole(page):
    path, reader = page
    text = "".join(reader.texts)
    for expected in (
        f"Title {NASTY}",
        f"Summary {NASTY}",
        f"Caption {NASTY}",
        f"Note {NASTY}",
        "teacher <entropy>",
        "2 & 3",
        "ssljax train --config <file>",
        "weights <pth>",
        "data.gap",
        "0.2",
        "seed",
    ):
        assert expected in text
    assert "script" not in reader.tags
    assert "<script" not in path.read_text()


def test_nothing_comes_from_elsewhere(page):
    _, reader = page
    assert sorted(reader.sources) == ["../export/encoder.pth", "a%20b.png", "a%20b.png"]
    assert "link" not in reader.tags


def test_readable_on_a_phone_and_in_the_dark(page):
    text = page[0].read_text()
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
