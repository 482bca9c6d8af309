"""In a browser every picture of a page shows, nothing is wider than the window, and nothing is asked of a network."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from reading import Reader
from swept import write_json, write_sweep_folder

from ssljax.cli import main
from ssljax.report.page import Best, Figure, Gallery, Legend, Section, Table, Text, write_page
from ssljax.report.results import read_results, result_sections
from ssljax.report.training import training_section

pytestmark = pytest.mark.long

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += [
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--enable-logging=stderr",
]
CHECK = """
<script>
addEventListener("load", () => {
  document.querySelectorAll("details").forEach(one => { one.open = true });
  const seen = [...document.images].map(one => ({
    pixels: one.naturalWidth, left: one.getBoundingClientRect().left, right: one.getBoundingClientRect().right }));
  const asked = performance.getEntriesByType("resource").map(one => one.name);
  parent.postMessage(JSON.stringify({ seen, width: innerWidth, page: document.documentElement.scrollWidth,
    asked: asked.filter(name => !name.startsWith("data:")) }), "*");
});
</script>
"""
FRAME = """<!doctype html><script>
addEventListener("message", event => {
  const found = document.createElement("pre");
  found.textContent = event.data;
  document.body.append(found);
});
</script><body><iframe src="checked.html" width="WIDTH" height="900" style="border: 0"></iframe></body>
"""


def seen_at(page, width, folder):
    """Return what the page measures in a window of that width, within a frame: a window cannot be that narrow."""
    (folder / "checked.html").write_text(page.read_text().replace("</body>", f"{CHECK}</body>"))
    frame = folder / "frame.html"
    frame.write_text(FRAME.replace("WIDTH", str(width)))
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=20000", "--dump-dom"]
    done = subprocess.run([*command, frame.as_uri()], capture_output=True, text=True, timeout=300, check=True)
    assert ":CONSOLE" not in done.stderr, done.stderr
    found = re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    assert found, done.stdout[-500:] + done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """One with every kind of block, wide and long ones, and curves and results as runs have them."""
    folder = tmp_path_factory.mktemp("page")
    random = np.random.default_rng(0)
    frames = [Image.fromarray(random.integers(0, 255, (100, 1600, 3), np.uint8)) for _ in range(2)]
    frames[0].save(folder / "wide.png")
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:], duration=100, loop=0)
    results = {"trained": {f"knn_{k}": 0.5 for k in range(30)}}
    record = {"protocol": "knn", "step": 1, "results": results, "details": {"trained": {"values": [0.5] * 20}}}
    (folder / "knn.json").write_text(json.dumps(record))
    lines = [{"step": s, "loss": 1 / s, "samples_per_second": 2.0, "knn_20": 0.5} for s in range(1, 9)]
    key = "a.very." + "long." * 30 + "key"
    sections = [
        Section("Numbers", [Table(("", *"abcdefghijklmnop"), [(f"row {i}", *[Best("0.123456")] * 16) for i in "123"])]),
        *result_sections({"run": read_results(folder)}, {"run": 2}),
        training_section({"one": lines, "x" * 60: lines}, folder),
        Section("Pictures", [Figure("Wide", folder / "wide.png", "wide"), Figure("", folder / "moving.gif", "moving")]),
        Section("Small", [Gallery([Figure("", frames[0], "one")]), Legend([("y" * 80, "#123456")])]),
        Section("Config", [Table(("key", "value"), [(key, Text("v" * 200))])], closed=True),
    ]
    return write_page(folder / "index.html", title="T" * 90, summary="s" * 90, sections=sections)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """The page of a sweep with long names, many metrics and a run that failed."""
    folder = tmp_path_factory.mktemp("page") / "a folder"
    values = {f"variant_{i} <{'x' * 15 * i}>": [0.1 * i, 0.3, 0.5] for i in range(9)}
    differs = {name: {"objective.temperature": i, "data.data": "d" * 90} for i, name in enumerate(values)}
    metrics = [f"knn_{k}" for k in (20, 10, 5, 1)] + ["loss", "tracks_overlap"]
    write_sweep_folder(folder, values, metrics=metrics, varies="objective.temperature", differs=differs)
    failed = folder / next(iter(values)) / "seed-1"
    (failed / "finished.json").unlink()
    write_json(failed / "failed.json", {"error": "e" * 300, "code": 2})
    assert main(["report", str(folder)]) == 0
    return folder / "report" / "index.html"


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize(("name", "pictures"), [("page", 6), ("sweep", 2)])
def test_a_browser_shows_all_of_it(name, pictures, width, tmp_path, request):
    page = request.getfixturevalue(name)
    found = seen_at(page, width, tmp_path)
    assert len(found["seen"]) == Reader(page).tags.count("img") > pictures
    assert all(image["pixels"] > 0 for image in found["seen"])
    assert all(image["left"] >= 0 and image["right"] <= width for image in found["seen"])
    assert (found["width"], found["page"]) == (width, width)
    assert not [name for name in found["asked"] if not name.startswith("file:")]
    assert found["asked"] == []


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
def test_the_check_finds_what_is_wrong(tmp_path):
    page = tmp_path / "index.html"
    page.write_text('<!doctype html><body><img src="data:,"><div style="width: 3000px">wide</div></body>')
    found = seen_at(page, 390, tmp_path)
    assert found["seen"][0]["pixels"] == 0
    assert found["page"] > 390
