"""Files of results become tables; what is damaged, foreign or of another checkpoint is said."""

import json

import pytest
from PIL import Image
from reading import Reader

from ssljax.errors import InputError
from ssljax.report.details import detail_sections
from ssljax.report.page import Alert, Best, Gallery, Section, Table, write_page
from ssljax.report.results import read_results, result_sections


def record(protocol="knn", step=7, **more):
    results = {"trained": {f"{protocol}_20": 0.5}, "random initialisation": {f"{protocol}_20": 0.25}}
    common = {"protocol": protocol, "workdir": "runs/x", "step": step, "arguments": {"size": 32, "train": "a"}}
    return common | {"data": {"train": {"data": "a", "checksum": "1"}}, "results": results, "details": {}} | more


def write(folder, name, content):
    folder.mkdir(exist_ok=True, parents=True)
    (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def blocks_of(sections, kind):
    found = []
    for block in sections:
        found += [block] if isinstance(block, kind) else []
        found += blocks_of(block.blocks, kind) if isinstance(block, Section) else []
    return found


def test_every_protocol_is_a_table_with_the_best_in_bold(tmp_path):
    write(tmp_path, "knn", record())
    write(tmp_path, "health", record("health", shares=False))
    health, knn = result_sections({"run": read_results(tmp_path)}, {"run": 7})
    assert (health.title, knn.title) == ("health", "k-NN")
    table = knn.blocks[0]
    assert table.columns == ("", "k-NN 20 (%)")
    assert table.rows == [("trained", "50.00"), ("random initialisation", "25.00")]
    assert [isinstance(row[1], Best) for row in table.rows] == [True, False]
    assert health.blocks[0].rows[0] == ("trained", "0.500")
    assert not blocks_of([knn, health], Alert)


def test_the_update_is_told_and_another_is_warned_of(tmp_path):
    write(tmp_path, "knn", record(step=5))
    write(tmp_path, "linear", {**record("linear"), "step": None, "weights": "w.safetensors"})
    sections = result_sections({"run": read_results(tmp_path)}, {"run": 7})
    first, second = blocks_of(sections, Alert)
    assert "knn.json was measured at update 5, but the checkpoint shown is that of update 7" in first
    assert "w.safetensors" in second


def test_several_runs_share_a_table_and_other_conditions_are_warned_of(tmp_path):
    one = read_results(write(tmp_path / "one", "knn", record()))
    other = record(arguments={"size": 64, "train": "elsewhere"})
    two = read_results(write(tmp_path / "two", "knn", other))
    (section,) = result_sections({"one": one, "two": two}, {"one": 7, "two": 7})
    names = [row[0] for row in section.blocks[0].rows]
    assert names == ["one: trained", "one: random initialisation", "two: trained", "two: random initialisation"]
    (alert,) = blocks_of([section], Alert)
    assert "arguments.size (32 there, 64 here)" in alert and "elsewhere" not in alert


def test_no_folder_is_no_results(tmp_path):
    assert read_results(tmp_path / "evaluate") == []
    assert result_sections({"run": []}, {"run": 1}) == []


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "1",
        json.dumps({"protocol": "knn"}),
        json.dumps(record(results={})),
        json.dumps(record(results={"trained": {"knn_20": "much"}})),
        json.dumps(record(results={"trained": 1})),
        json.dumps(record(step="last")),
        json.dumps(record(details={"trained": 3})),
        json.dumps(record(protocol=3)),
    ],
)
def test_a_damaged_or_foreign_file_is_named(tmp_path, content):
    write(tmp_path, "odd", content)
    with pytest.raises(InputError, match=r"odd\.json is no file of results of ssljax evaluate"):
        read_results(tmp_path)


def test_details_of_every_kind_are_shown():
    grid = [{"learning_rate": rate, "accuracy": rate / 4, "loss": None} for rate in (0.1, 1.0)]
    sequences = {"bear": {"j_and_f": 0.5, "j": 0.25, "objects": {"1": {"j": {"mean": 0.5}}}}}
    of_one = {"grid": grid, "sequences": sequences, "iou": {"sky": 0.5}, "steps": 3}
    of_one |= {"values": [0.5**i for i in range(20)], "entropy": {"heads": [1.0, 2.0], "at_most": 4.0}}
    blocks = detail_sections({"trained": of_one, "pixels": {"steps": 3, "iou": {"sky": 0.125}}})
    tables = {section.title: table for section in blocks if isinstance(section, Section) for table in section.blocks}
    assert tables["Details"] == Table(("", "trained", "pixels"), [("steps", "3", "3")])
    assert tables["grid"].columns == ("", "accuracy (%), trained", "loss, trained")
    assert tables["grid"].rows[1] == ("learning rate 1", "25.00", "–")
    assert [isinstance(row[1], Best) for row in tables["grid"].rows] == [False, True]
    assert tables["sequences"].rows == [("bear", "50.00", "25.00")]
    assert tables["IoU"].rows == [("sky", "50.00", "12.50")]
    assert [row[0] for row in tables["entropy"].rows] == ["heads 1", "heads 2", "at most"]
    (gallery,) = blocks_of(blocks, Gallery)
    assert isinstance(gallery.figures[0].image, Image.Image) and "values" in gallery.figures[0].caption


def test_odd_names_are_escaped_on_the_page(tmp_path):
    odd = record("<b>odd</b>", results={"<i>trained</i>": {"<u>": 0.5}})
    write(tmp_path, "odd", odd)
    sections = result_sections({"run": read_results(tmp_path)}, {"run": 7})
    reader = Reader(write_page(tmp_path / "page.html", title="t", summary="s", sections=sections))
    assert "<b>odd</b>" in reader.text and "<i>trained</i>" in reader.text
    assert not {"i", "u"} & set(reader.tags)
