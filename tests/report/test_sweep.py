"""`ssljax report DIR` of a sweep: its page, its files and what it refuses."""

import csv
import json
import math

import numpy as np
import pytest
from PIL import Image
from reading import Reader
from swept import write_json, write_sweep_folder

from ssljax import arguments
from ssljax.cli import main
from ssljax.report.curves import COLOURS
from ssljax.report.metrics import Line, Panel
from ssljax.report.page import Alert
from ssljax.report.sweep_folder import read_sweep
from ssljax.report.sweep_notes import changed_configs, made_by, scale
from ssljax.report.sweep_plots import draw_curves, draw_metric, series_of
from ssljax.report.sweep_table import baselines, measure

VALUES = {f"temperature={k}": [0.3 + k / 10, 0.31 + k / 10, 0.33 + k / 10] for k in (0.1, 0.2, 0.5)}
DIFFERS = {f"temperature={k}": {"objective.temperature": k} for k in (0.1, 0.2, 0.5)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A sweep of nine runs, of which one failed and one is not finished."""
    folder = tmp_path_factory.mktemp("s") / "sweep"
    write_sweep_folder(folder, VALUES, metrics=("knn_20", "loss"), varies="objective.temperature", differs=DIFFERS)
    for name in ("temperature=0.2/seed-1", "temperature=0.5/seed-2"):
        (folder / name / "finished.json").unlink()
    write_json(folder / "temperature=0.2/seed-1/failed.json", {"error": "ssljax: <no> video.", "code": 2})
    return folder


@pytest.fixture(scope="module")
def page(folder):
    assert main(["report", str(folder)]) == 0
    return folder / "report" / "index.html"


def test_the_page_holds_table_plots_curves_and_how_it_was_made(page, folder):
    reader = Reader(page)
    reader.check_alone()
    for expected in (
        "objects: 3 variants",
        "9 runs of 3 variants, of which 7 have finished, at the budget “laptop”: 2 updates of 8 samples each",
        "need not differ at another",
        "temperature=0.2/seed-1 failed at update 2, and is not in the table: ssljax: <no> video.",
        "Not finished, and not in the table: temperature=0.5/seed-2 (2 of 2 updates).",
        "32.3\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}1.5",
        "random initialisation",
        "The key that differs",
        "objective.temperature",
        "Code: commit c0ffee.",
        "ssljax sweep objects --workdir s",
        f"ssljax report {folder}",
        "table.tex",
    ):
        assert expected in reader.text, expected
    assert "0:01:01" in reader.text
    assert reader.spoken[:2] == [
        "k-NN 20 (%) against objective.temperature",
        "loss against objective.temperature",
    ]


def test_beside_the_page_lie_tables_and_pictures(page):
    names = {path.name for path in page.parent.iterdir()}
    tables = {"table.md", "table.csv", "table.tex", "runs.csv"}
    assert names == {"index.html", "curves.png", "knn_20.png", "loss.png"} | tables
    for picture in page.parent.glob("*.png"):
        with Image.open(picture) as image:
            image.load()
    assert "| temperature=0.2 | 0.2 | 2 of 3 |" in (page.parent / "table.md").read_text()
    assert "temperature=0.2/seed-1 failed" in (page.parent / "table.md").read_text()
    with (page.parent / "runs.csv").open(newline="") as file:
        assert [row["state"] for row in csv.DictReader(file)].count("finished") == 7


def test_a_single_file_is_all_that_is_written(folder, tmp_path, capsys):
    output = tmp_path / "new" / "page.html"
    assert main(["report", str(folder), "--output", str(output), "--link", str(folder / "sweep.json")]) == 0
    assert [path.name for path in output.parent.iterdir()] == ["page.html"]
    reader = Reader(output)
    assert "table.tex" not in reader.text
    assert next(link for link in reader.links if not link.startswith("#")).endswith("sweep.json")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--step", "1"], "--step chooses what is shown of a single run"),
        (["--video", "x"], "--video chooses"),
        (["--seconds", "1", "2"], "--seconds chooses"),
        (["other"], "report it alone"),
    ],
)
def test_what_does_not_fit_a_sweep_is_refused(given, said, folder, capsys):
    assert main(["report", str(folder), *given]) == 2
    assert said in capsys.readouterr().err


def test_a_sweep_that_has_not_begun_is_refused(tmp_path, capsys):
    write_sweep_folder(tmp_path, {"a": [None], "b": [None]})
    assert main(["report", str(tmp_path)]) == 2
    assert "no run of the sweep has logged anything yet" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_configs_that_differ_in_what_no_variant_varies_are_warned_of(folder, tmp_path):
    sweep = read_sweep(folder)
    assert list(changed_configs(sweep)) == []
    first, *others, last = sweep.members
    another = last._replace(config=last.config | {"epochs": 7, "log": {}})
    (told,) = changed_configs(sweep._replace(members=[first, *others, another]))
    epochs = first.config["epochs"]
    assert told == (f"{last.name} differ from {first.name} in what no variant varies: epochs ({epochs} there, 7 here).")
    assert list(changed_configs(sweep._replace(members=[*others, another._replace(file="other.py")]))) == []


def test_all_commands_of_a_sweep_are_shown(tmp_path):
    typed = ["ssljax sweep a --workdir s", "ssljax sweep a --workdir s --seeds 5"]
    write_sweep_folder(tmp_path, {"a": [0.5]}, seeds=(0,), commands=typed)
    assert read_sweep(tmp_path).commands == typed


def test_other_commits_and_changes_are_warned_of(folder):
    sweep = read_sweep(folder)
    assert made_by(sweep) == ["Code: commit c0ffee."]
    first, *others = sweep.members
    starts = [{"commit": "decaf", "dirty": "source/decaf-1.diff", "kind": "TPU v5e", "devices": 4}]
    sweep = sweep._replace(members=[first._replace(starts=starts), *others])
    (told,) = made_by(sweep)
    assert isinstance(told, Alert)
    start = "The runs are not all of the same code: commit decaf, with the changes in source/decaf-1.diff of the run "
    assert told.startswith(f"{start}({first.name}); commit c0ffee (")
    facts = dict(scale(sweep).rows)
    assert facts["devices"] == "4 × TPU v5e; 1 × cpu"
    assert facts["samples an update"] == "8"
    installed = first._replace(starts=[{"commit": None, "dirty": None, "packages": {"ssljax": "1.2"}}])
    assert made_by(sweep._replace(members=[installed])) == ["Code: ssljax 1.2 as installed."]
    nothing = sweep._replace(members=[one._replace(starts=[]) for one in sweep.members])
    assert made_by(nothing) == ["Code: not recorded."]


def test_variants_lie_along_numbers_or_have_but_names(tmp_path):
    grid = {f"{t},{d}": {"objective.temperature": t, "models.encoder.depth": d} for t in (0.5, 0.1) for d in (18, 34)}
    given = dict(differs=grid, seeds=(0,), varies="objective.temperature")
    sweep = read_sweep(write_sweep_folder(tmp_path / "a", {name: [0.5] for name in grid}, **given))
    shallow, deep = series_of(sweep)
    assert (shallow.name, dict(shallow.places)) == ("depth 18", {"0.1,18": 0.1, "0.5,18": 0.5})
    assert (deep.name, list(deep.places)) == ("depth 34", ["0.1,34", "0.5,34"])
    assert series_of(sweep._replace(varies="")) == []
    assert series_of(sweep._replace(varies="objective.name")) == []
    assert series_of(sweep._replace(varies="no.such.key")) == []
    sweep = read_sweep(write_sweep_folder(tmp_path / "b", {"x": [0.5], "y": [0.4]}, differs={"y": {"a.b": True}}))
    assert series_of(sweep._replace(varies="a.b")) == []


def test_variants_that_share_a_number_and_all_columns_are_plotted_by_name(tmp_path):
    alike = {name: {"objective.temperature": t} for name, t in (("a", 0.1), ("b", 0.1), ("c", 0.5))}
    scores = {name: [0.5, 0.6] for name in alike}
    sweep = read_sweep(write_sweep_folder(tmp_path, scores, differs=alike, varies="objective.temperature"))
    assert series_of(sweep) == []
    assert draw_metric(sweep, measure(sweep, "knn_20"), baselines(sweep)).width


def pixels_of(image, colour):
    """Return where a picture has a colour, as rows and columns."""
    wanted = np.asarray([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return np.argwhere(np.abs(np.asarray(image.convert("RGB"), int) - wanted).max(-1) < 24)


def test_means_lie_where_the_values_are(tmp_path):
    values = {"1": [0.2, 0.2], "2": [0.4, 0.4], "4": [0.3, 0.3]}
    differs = {name: {"objective.temperature": int(name)} for name in values}
    sweep = read_sweep(write_sweep_folder(tmp_path, values, varies="objective.temperature", differs=differs))
    image = draw_metric(sweep, measure(sweep, "knn_20"), baselines(sweep))
    places = pixels_of(image, COLOURS[0])
    left, highest, right = (places[at] for at in (places[:, 1].argmin(), places[:, 0].argmin(), places[:, 1].argmax()))
    assert left[0] > right[0] > highest[0]  # 20, 30 and 40 per cent, from the bottom to the top
    share = (highest[1] - left[1]) / (right[1] - left[1])
    assert abs(share - 1 / 3) < 0.05
    by_name = draw_metric(sweep._replace(varies=""), measure(sweep, "knn_20"), baselines(sweep))
    rows = [pixels_of(by_name, colour).mean(0) for colour in COLOURS[:3]]
    assert rows[0][0] < rows[1][0] < rows[2][0]
    assert rows[0][1] < rows[2][1] < rows[1][1]


def test_a_curve_is_the_mean_of_finished_runs(tmp_path):
    # so many variants have no names in the panel, whose colours would count
    sweep = read_sweep(write_sweep_folder(tmp_path, {name: [0.5, 0.5] for name in "abcdefg"}, seeds=(0, 1)))
    levels = {"a/seed-0": 0.0, "a/seed-1": 2.0, "b/seed-0": 4.0, "b/seed-1": 4.0}
    steps = np.arange(10.0)
    lines = [Line(name, np.stack([steps, np.full(10, level)], 1), 0) for name, level in levels.items()]
    image = draw_curves(Panel("loss", lines), sweep)
    first, second = (pixels_of(image, colour)[:, 0] for colour in COLOURS[:2])
    alone = draw_curves(Panel("loss", lines[:2]), sweep)
    middle, ends = pixels_of(alone, COLOURS[0])[:, 0], (alone.height * 0.1, alone.height * 0.85)
    assert second.max() < first.min()
    assert np.ptp(middle) < 12  # thin lines are paler, and 0.0 and 2.0 are as far away as can be
    assert ends[0] < middle.mean() < ends[1]


def test_values_that_are_missing_do_not_stop_the_page(tmp_path):
    folder = write_sweep_folder(tmp_path, {"a": [math.nan, 0.5], "b_%$": [None, None]}, metrics=("knn_20", "gone"))
    (folder / "a/seed-0/starts.jsonl").unlink()
    config = json.loads((folder / "a/seed-0/config.json").read_text())
    config["objective"]["name"] = "nobody.knows.It"
    (folder / "a/seed-0/config.json").write_text(json.dumps(config))
    assert main(["report", str(folder)]) == 0
    reader = Reader(folder / "report" / "index.html")
    assert "knn_20 is no finite number, and does not count, of a/seed-0 (nan)." in reader.text
    assert "gone is in no file of results" in reader.text
    assert "unknown (" in reader.text
    assert not (folder / "report" / "gone.png").exists()


def test_of_one_run_so_far_there_is_a_page_with_its_curves(tmp_path):
    folder = write_sweep_folder(tmp_path, {"a": [0.5, None], "b": [None, None]})
    assert main(["report", str(folder)]) == 0
    reader = Reader(folder / "report" / "index.html")
    assert "no other variant has a value" in reader.text
    with Image.open(folder / "report" / "curves.png") as image:
        assert len(pixels_of(image, COLOURS[0])) > 100


def test_the_help_names_sweeps():
    assert "sweep" in arguments.parser().format_help()
