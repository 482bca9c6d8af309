"""Reads pages as a browser does, without one."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "link", "source", "wbr"}


class Reader(HTMLParser):
    """Collects texts, sources, links and alternative texts, and checks that tags close in order."""

    def __init__(self, path):
        super().__init__()
        self.open, self.texts, self.sources, self.links, self.spoken, self.tags = [], [], [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.sources += [given[name] for name in ("src", "srcset") if name in given]
        self.links += [given["href"]] if tag == "a" else []
        self.spoken += [given.get("alt")] if tag == "img" else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return "".join(self.texts)

    def check_alone(self):
        """Every picture is inside and is described, nothing is asked of the network, and nothing runs."""
        assert all(source.startswith("data:image/") for source in self.sources)
        assert all(self.spoken)
        assert not {"script", "iframe", "object", "embed"} & set(self.tags)
        assert not any("//" in link for link in self.links)
