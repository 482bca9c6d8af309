"""Means, deviations and least significant differences of a sweep against SciPy and the statistics module."""

import json
import math
import re
import statistics

import numpy as np
import pytest
from scipy import stats
from swept import write_json, write_run, write_sweep_folder

from ssljax.cli import main
from ssljax.errors import InputError
from ssljax.report.page import Best
from ssljax.report.sweep_folder import is_sweep, read_sweep, score
from ssljax.report.sweep_notes import absent, changed_protocols
from ssljax.report.sweep_table import (
    baselines,
    label,
    least_difference,
    measure,
    not_better,
    results_table,
    sentences,
    written,
)

THREE = {"full": [0.50, 0.52, 0.51], "a_b": [0.40, 0.44, 0.41], "50%": [0.505, 0.515, 0.525]}


def swept(folder, *args, **more):
    return read_sweep(write_sweep_folder(folder, *args, **more))


def table_of(sweep, metrics=None):
    columns = [measure(sweep, metric) for metric in metrics or sweep.metrics]
    table = results_table(sweep, columns, baselines(sweep))
    rows = [[type(cell)(cell.replace("\N{NO-BREAK SPACE}", " ")) for cell in row] for row in table.rows]
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in rows}


def test_means_and_deviations_are_those_of_the_statistics_module(tmp_path):
    sweep = swept(tmp_path, THREE)
    measured = measure(sweep, "knn_20")
    for variant, values in THREE.items():
        assert measured.scores[variant].mean == pytest.approx(statistics.mean(values), rel=1e-12)
        assert measured.scores[variant].deviation == pytest.approx(statistics.stdev(values), rel=1e-12)
    rows = table_of(sweep)
    assert rows["a_b"]["k-NN 20 (%) ↑"] == "41.7 ± 2.1"
    assert isinstance(rows["50%"]["k-NN 20 (%) ↑"], Best)
    assert not isinstance(rows["full"]["k-NN 20 (%) ↑"], Best)


def test_the_pooled_deviation_is_the_residual_of_a_one_way_analysis_of_variance(tmp_path):
    values = {"a": [0.1, 0.15, 0.3], "b": [0.2, 0.25], "c": [0.4]}
    measured = measure(swept(tmp_path, values), "knn_20")
    groups = [np.asarray(group) for group in values.values()]
    everything = np.concatenate(groups)
    between = sum(len(group) * (group.mean() - everything.mean()) ** 2 for group in groups)
    expected = (everything.var() * len(everything) - between) / 3
    assert measured.freedom == 3
    assert measured.pooled**2 == pytest.approx(expected, rel=1e-12)
    f = stats.f_oneway(*groups).statistic  # its denominator is that variance
    assert between / 2 / measured.pooled**2 == pytest.approx(f, rel=1e-9)
    least = stats.t.ppf(0.975, 3) * math.sqrt(expected) * math.sqrt(1 / 3 + 1 / 1)
    assert least_difference(measured, "a", "c") == pytest.approx(least, rel=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.01, 0.02, 0.022, 0.024, 0.03, 0.1])
@pytest.mark.parametrize("counts", [(3, 3), (2, 5)])
def test_of_two_variants_the_decision_is_that_of_a_t_test(shift, counts, tmp_path):
    random = np.random.default_rng(int(1000 * shift))
    one, other = (list(0.5 + random.normal(0, 0.01, count)) for count in counts)
    other = [value + shift for value in other]
    sweep = swept(tmp_path, {"one": one, "other": other}, seeds=range(5))
    measured = measure(sweep, "knn_20")
    p = stats.ttest_ind(one, other).pvalue
    beyond = abs(np.mean(one) - np.mean(other)) > least_difference(measured, "one", "other")
    assert beyond == (p < 0.05)
    (sentence,) = sentences(sweep, [measured])
    assert ("No variant differs" in sentence) == (p >= 0.05)


def test_sentences_say_which_variants_differ_by_more_than_the_spread(tmp_path):
    sweep = swept(tmp_path, THREE)
    (sentence,) = sentences(sweep, [measure(sweep, "knn_20")])
    pooled = math.sqrt(np.mean([np.var(values, ddof=1) for values in THREE.values()]))
    least = stats.t.ppf(0.975, 6) * pooled * math.sqrt(2 / 3)
    assert f"seeds is {100 * pooled:.2f} (6 degrees" in sentence
    assert f"least significant difference ({100 * least:.2f}) differ from full: a_b (-9.33)." in sentence
    assert "By less: 50% (+0.50)." in sentence


def test_of_one_seed_nothing_is_said(tmp_path):
    sweep = swept(tmp_path, {"a": [0.5], "b": [0.6]}, seeds=(0,))
    measured = measure(sweep, "knn_20")
    assert math.isnan(least_difference(measured, "a", "b"))
    assert "nothing can be said" in next(iter(sentences(sweep, [measured])))
    rows = table_of(sweep)
    assert (rows["b"]["k-NN 20 (%) ↑"], rows["b"]["seeds"]) == ("60.00", "1")


def test_less_is_better_where_it_is_and_what_training_logs_has_no_best(tmp_path):
    values = {"a": [0.9, 0.8, 0.7], "b": [0.5, 0.4, 0.3]}
    sweep = swept(tmp_path, values, metrics=("tracks_overlap", "loss"))
    rows = table_of(sweep)
    assert rows["b"]["tracks overlap ↓"] == "0.40 ± 0.10"
    assert [isinstance(rows[name]["tracks overlap ↓"], Best) for name in "ab"] == [False, True]
    assert rows["a"]["loss"] == "1.60 ± 0.10"
    assert not isinstance(rows["a"]["loss"], Best)
    assert rows["random initialisation"]["loss"] == "–"


def test_runs_that_failed_or_never_ended_are_named_and_do_not_count(tmp_path):
    folder = write_sweep_folder(tmp_path, {"a": [0.5, 0.6, 0.9], "b": [0.1, None, 0.3]})
    for name in ("a/seed-2", "b/seed-2"):
        (folder / name / "finished.json").unlink()
    write_json(folder / "a/seed-2/failed.json", {"error": "ssljax: the disk is full.", "code": 2})
    sweep = read_sweep(folder)
    assert list(absent(sweep)) == [
        "a/seed-2 failed at update 2, and is not in the table: ssljax: the disk is full.",
        "Not finished, and not in the table: b/seed-2 (2 of 2 updates).",
        "Not started, and not in the table: b/seed-1.",
    ]
    rows = table_of(sweep)
    assert (rows["a"]["k-NN 20 (%) ↑"], rows["a"]["seeds"]) == ("55.0 ± 7.1", "2 of 3")
    assert (rows["b"]["k-NN 20 (%) ↑"], rows["b"]["seeds"]) == ("10.00", "1 of 3")


def test_a_variant_without_a_finished_run_keeps_its_row(tmp_path):
    sweep = swept(tmp_path, {"a": [0.5, 0.6, 0.7], "b": [None, None, None]})
    assert table_of(sweep)["b"]["k-NN 20 (%) ↑"] == "–"
    assert "no other variant" in next(iter(sentences(sweep, [measure(sweep, "knn_20")])))
    sweep = swept(tmp_path, {"a": [0.5, 0.6, 0.7], "b": [None, None, None]}, reference="b")
    assert "b has no value" in next(iter(sentences(sweep, [measure(sweep, "knn_20")])))


def test_what_is_no_number_is_named_and_does_not_count(tmp_path):
    sweep = swept(tmp_path, {"a": [0.5, math.nan, 0.7], "b": [math.inf, math.nan, math.nan]}, metrics=("knn_20", "kl"))
    rows = table_of(sweep)
    assert rows["a"]["k-NN 20 (%) ↑"] == "60 ± 14 (2 of 3)"
    assert rows["b"]["k-NN 20 (%) ↑"] == "–"
    said = list(absent(sweep))
    assert said[0].startswith("knn_20 is no finite number")
    assert "a/seed-1 (nan), b/seed-0 (inf)" in said[0]
    assert said[1].startswith("kl is in no file of results and no log of a/seed-0, ")


def test_baselines_that_variants_share_are_one_row(tmp_path):
    folder = write_sweep_folder(tmp_path, {"a": [0.5, 0.6, 0.7], "b": [0.21, 0.2, 0.19]})
    rows = table_of(read_sweep(folder))
    assert rows["random initialisation"]["k-NN 20 (%) ↑"] == "21.0 ± 1.0"  # 0.20, 0.21 and 0.22
    assert rows["pixels"]["k-NN 20 (%) ↑"] == "25.00"
    sweep = read_sweep(folder)
    said = list(not_better([measure(sweep, "knn_20")], baselines(sweep)))
    assert said[0] == "k-NN 20 (%): no better than random initialisation (21.00): b."
    assert said[1] == "k-NN 20 (%): no better than pixels (25.00): b."
    for seed in range(3):
        write_run(folder / f"b/seed-{seed}", {"knn_20": 0.5}, seed=seed, random=0.3)
    found = baselines(read_sweep(folder))
    assert [label(one, found) for one in found] == [
        "random initialisation of a",
        "random initialisation of b",
        "pixels",
    ]
    assert found[1].scores["knn_20"].mean == pytest.approx(0.31)


def test_keys_that_differ_are_columns_and_so_is_another_config(tmp_path):
    differs = {"b": {"objective.temperature": 0.5}, "c": {"models.encoder.depth": 34, "objective.temperature": 0.1}}
    folder = write_sweep_folder(
        tmp_path, {key: [0.5, 0.6] for key in "abc"}, differs=differs, varies="models.encoder.depth"
    )
    rows = table_of(read_sweep(folder))
    assert [rows[name]["temperature"] for name in "abc"] == ["0.1", "0.5", "0.1"]
    assert [rows[name]["depth"] for name in "abc"] == ["18", "18", "34"]
    assert list(rows["a"])[1:3] == ["depth", "temperature"]
    record = {**differs, "c": {"data.name": "frames"}}
    folder = write_sweep_folder(tmp_path, {key: [0.5, 0.6] for key in "abc"}, differs=record)
    sweep = read_sweep(folder)
    other = [one._replace(file="configs/dino.py:frames") if one.variant == "c" else one for one in sweep.members]
    rows = table_of(sweep._replace(members=other))
    assert rows["c"]["config"] == "configs/dino.py:frames"
    assert "name" not in rows["c"]


def test_the_reference_comes_first_though_it_was_run_last(tmp_path):
    sweep = swept(tmp_path, {"b": [0.5], "c": [0.4], "a": [0.3]}, reference="a")
    assert list(sweep.variants) == ["a", "b", "c"]


def test_evaluations_under_other_conditions_or_of_other_updates_are_named(tmp_path):
    folder = write_sweep_folder(tmp_path, {"a": [0.5, 0.6], "b": [0.5, 0.6]})
    path = folder / "b/seed-1/evaluate/knn.json"
    path.write_text(path.read_text().replace('"train": "a"', '"size": 64').replace('"step": 2', '"step": 1'))
    sweep = read_sweep(folder)
    assert next(changed_protocols(sweep)).startswith("knn of b/seed-1 was measured otherwise than of a/seed-0: ")
    assert any("b/seed-1/evaluate/knn.json was measured at update 1, but the run has 2" in one for one in absent(sweep))


def test_a_metric_is_that_of_the_protocols_own_file(tmp_path):
    folder = write_sweep_folder(tmp_path, {"a": [0.5]}, seeds=(0,))
    text = (folder / "a/seed-0/evaluate/knn.json").read_text()
    (folder / "a/seed-0/evaluate/all.json").write_text(text.replace("0.5", "0.9"))
    (member,) = read_sweep(folder).members
    assert score(member, "knn_20") == 0.5
    assert score(member, "loss") == 1.5
    assert score(member, "nothing") is None


def test_numbers_of_a_column_have_the_same_decimals(tmp_path):
    measured = measure(
        swept(tmp_path, {"a": [12.3456, 12.4], "b": [0.5, 0.6]}, metrics=("health_rankme",)), "health_rankme"
    )
    assert written(measured, 12.3456) == "12.35"
    assert written(measured, 0.5, sign=True) == "+0.50"
    assert written(measured, math.nan) == "–"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("finished.json", "{", r"finished\.json cannot be read"),
        ("finished.json", '{"updates": "x", "seconds": null}', r"finished\.json is damaged: updates is 'x'"),
        ("finished.json", '{"updates": 2, "seconds": "x"}', r"finished\.json is damaged: seconds is 'x'"),
        ("metrics.jsonl", '{"step": "a", "loss": 1.0}\n', r"metrics\.jsonl, line 1, holds no metrics"),
        ("metrics.jsonl", '{"step": 1, "loss": "x"}\n', r"metrics\.jsonl, line 1, holds no metrics"),
        ("metrics.jsonl", "", r"metrics\.jsonl is missing or empty, though the run has finished"),
        ("starts.jsonl", "[]\n", r"starts\.jsonl, line 1, is no record of a start"),
        ("starts.jsonl", '{"step": 0, "time": "noon"}\n', r"starts\.jsonl, line 1: time is 'noon'"),
        ("config.json", '{"batch_size": "x"}', r"config\.json is damaged: batch_size is 'x'"),
        ("evaluate/knn.json", "{}", r"knn\.json is no file of results"),
    ],
)
def test_a_damaged_file_is_named_and_its_run_left_out(tmp_path, capsys, name, text, message):
    folder = write_sweep_folder(tmp_path, {"a": [0.5, 0.7], "b": [0.6]})
    (folder / "a/seed-1" / name).write_text(text)
    sweep = read_sweep(folder)
    assert [member.state for member in sweep.members] == ["finished", "damaged", "finished"]
    (said,) = absent(sweep)
    assert re.match(f"a/seed-1 cannot be read, and is not in the table: .*{message}", said)
    assert table_of(sweep)["a"]["seeds"] == "1 of 2"


def test_the_page_of_a_sweep_with_a_damaged_run_has_the_rest(tmp_path, capsys):
    folder = write_sweep_folder(tmp_path, {"a": [0.5, 0.7], "b": [0.6]})
    (folder / "a/seed-1/finished.json").write_text("{")
    assert main(["report", str(folder)]) == 0
    assert "ssljax: a/seed-1 is left out: " in capsys.readouterr().err
    assert "a/seed-1 cannot be read, and is not in the table" in (folder / "report" / "table.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.pop("budget"), "budget is missing"),
        (lambda record: record.update(metrics="loss"), "metrics is 'loss'"),
        (lambda record: record.update(metrics=[1]), r"metrics is \[1\]"),
        (lambda record: record.update(runs=[3]), r"runs\[0\]\.variant is missing"),
        (lambda record: record["runs"][0].update(folder="../../etc"), r"runs\[0\]\.folder is '\.\./\.\./etc'"),
        (lambda record: record["runs"][0].update(folder="/etc"), r"runs\[0\]\.folder is '/etc'"),
        (lambda record: record["runs"][0].update(seed="x"), r"runs\[0\]\.seed is 'x'"),
    ],
)
def test_a_damaged_record_of_a_sweep_is_refused_by_its_key(tmp_path, change, message):
    assert not is_sweep(tmp_path)
    folder = write_sweep_folder(tmp_path, {"a": [0.5]})
    record = json.loads((folder / "sweep.json").read_text())
    change(record)
    write_json(folder / "sweep.json", record)
    with pytest.raises(InputError, match=rf"sweep\.json is damaged: {message}"):
        read_sweep(folder)
    write_json(folder / "sweep.json", [])
    with pytest.raises(InputError, match="holds no object"):
        read_sweep(folder)
