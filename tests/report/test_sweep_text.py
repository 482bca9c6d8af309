"""The table of a sweep as Markdown, LaTeX and CSV is read back as what it was."""

import csv
import io
import re
import statistics

import pytest
from swept import write_sweep_folder

from ssljax.report.page import Best, Table
from ssljax.report.sweep_folder import read_sweep
from ssljax.report.sweep_table import baselines, measure
from ssljax.report.sweep_text import latex, markdown, runs_csv, table_csv

NASTY = r"a_b & 50% of $1 #2 {x} \y ~z ^w [q] *p* <i> | `c`"
TABLE = Table(("", NASTY, "k-NN (%) ↑"), [(NASTY, "–", Best("1.00 ± 0.10")), ("[plain]\nname", "1", "2.00")])
SPELLED = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"$\pm$": "±",
    r"$\uparrow$": "↑",
    "{[}": "[",
    "{]}": "]",
    "{*}": "*",
    "--": "–",
} | {f"\\{character}": character for character in "&%$#_{}"}


def spoken(text):
    """Return what LaTeX would print of a cell."""
    return re.sub("|".join(map(re.escape, SPELLED)), lambda match: SPELLED[match[0]], text)


def test_markdown_has_a_column_a_column_and_the_best_in_bold():
    lines = markdown(TABLE).splitlines()
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    assert [len(row) for row in cells] == [3, 3, 3, 3]
    assert {cell.strip() for cell in cells[1]} == {":--", "--:"}
    assert re.sub(r"\\(.)", r"\1", cells[0][1].strip()) == NASTY
    assert re.sub(r"\\(.)", r"\1", cells[2][0].strip()) == NASTY
    assert cells[2][2].strip() == "**1.00 ± 0.10**"
    assert cells[3][0].strip() == r"\[plain\] name"


def test_latex_is_balanced_and_prints_what_was_given():
    text = latex(TABLE, trained=1, comments=["made by\n\\input{x}"])
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert "% made by \\input{x}" in text.splitlines()
    assert "\\input" not in body
    braces = re.sub(r"\\[\\{}]", "", body)
    assert braces.count("{") == braces.count("}")
    assert all(braces[:end].count("{") >= braces[:end].count("}") for end in range(len(braces)))
    assert re.findall(r"\\(?:top|mid|bottom)rule|\\(?:begin|end)", body) == [
        r"\begin",
        r"\toprule",
        r"\midrule",
        r"\midrule",
        r"\bottomrule",
        r"\end",
    ]
    rows = [line.removesuffix(r" \\") for line in body.splitlines() if line.endswith(r"\\")]
    cells = [re.split(r" (?<!\\)& ", row) for row in rows]
    assert [len(row) for row in cells] == [3, 3, 3]
    assert spoken(cells[0][1]) == NASTY
    assert spoken(cells[1][0]) == NASTY
    assert cells[1][2] == r"\textbf{1.00 $\pm$ 0.10}"
    assert spoken(cells[2][0]) == "[plain] name"
    assert r"\begin{tabular}{lrr}" in body
    assert latex(TABLE, trained=2).count("midrule") == 1


def test_csv_has_the_numbers_in_full(tmp_path):
    values = {'full, "as it is"': [0.1, 0.2, 1 / 3], "a_b": [0.4, None, 0.5]}
    differs = {"a_b": {"objective.temperature": 0.5}}
    sweep = read_sweep(write_sweep_folder(tmp_path, values, metrics=("knn_20", "loss"), differs=differs))
    columns, rows = [measure(sweep, metric) for metric in sweep.metrics], baselines(sweep)
    found = {row["variant"]: row for row in csv.DictReader(io.StringIO(table_csv(sweep, columns, rows)))}
    assert list(found) == [*values, "random initialisation", "pixels"]
    full = found['full, "as it is"']
    assert float(full["knn_20 mean"]) == pytest.approx(statistics.mean([0.1, 0.2, 1 / 3]), rel=1e-15)
    assert float(full["knn_20 standard deviation"]) == pytest.approx(statistics.stdev([0.1, 0.2, 1 / 3]), rel=1e-12)
    assert (full["knn_20 seeds"], found["a_b"]["knn_20 seeds"]) == ("3", "2")
    assert found["a_b"]["objective.temperature"] == "0.5"
    assert found["pixels"]["loss mean"] == ""
    runs = list(csv.DictReader(io.StringIO(runs_csv(sweep, rows))))
    assert [(run["variant"], int(run["seed"])) for run in runs] == [
        (name, seed) for name in values for seed in range(3)
    ]
    assert float(runs[2]["knn_20"]) == 1 / 3
    assert float(runs[2]["knn_20, random initialisation"]) == 0.22
    assert (runs[4]["state"], runs[4]["knn_20"]) == ("not started", "")
    assert {run["updates"] for run in runs if run["state"] == "finished"} == {"2"}
