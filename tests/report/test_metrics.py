"""Every metric that a run logged is in one panel, and each panel is a picture."""

import json

import numpy as np
import pytest

from ssljax.errors import InputError
from ssljax.report.curves import draw_panel, sheet
from ssljax.report.metrics import Line, Panel, best_of, logged, panels, read_metrics, spoken

TRAINING = {"loss": 2.0, "kl": 1.0, "teacher_entropy": 2.0, "student_entropy": 3.0, "learning_rate": 0.1}
OTHER = {"samples_per_second": 9.0, "data_wait_share": 0.0, "gradient_norm": 1.0, "step_time_p50": 2.0, "mfu": 0.4}
OTHER |= {"step_time_p99": 3.0, "goodput": 0.75}
UNDRAWN = {"step_time_p90": 2.5, "save_share": 0.0, "restarts": 1.0, "device_memory_gb": 9.0, "data_wait_share_0": 0.0}
UNDRAWN |= {"data_wait_share_1": 0.0, "productive_seconds": 7.0, "model_tflops_per_second": 1.0}
EVALUATED = {"knn_10": 0.1, "knn_20": 0.2, "linear": 0.5, "davis_j_and_f": 0.3, "davis_j_decay": 0.1, "tracks_patch": 1}
EVALUATED |= {"health_rankme": 20.0, "segmentation_miou": 0.2, "pck_image": 0.1, "mine_alone": 7.0}


def lines():
    """Of six updates, evaluated after each third."""
    return [{"step": s, **TRAINING, **OTHER, **UNDRAWN, **(EVALUATED if s % 3 == 0 else {})} for s in range(1, 7)]


def test_every_metric_is_in_one_panel():
    found = panels({"": lines()})
    names = [[line.name for panel in group for line in panel.lines] for group in found]
    for group, metrics in zip(names, (TRAINING, EVALUATED, OTHER), strict=True):
        assert sorted(group) == sorted(map(spoken, metrics))


def test_what_tells_how_a_run_goes_is_in_few_panels_even_where_only_some_lines_have_it():
    before = [{"step": 1, "loss": 2.0, "samples_per_second": 9.0, "gradient_norm": 1.0}]
    found = panels({"": before + [line | {"step": line["step"] + 1} for line in lines()]}).other
    named = {panel.title: [line.name for line in panel.lines] for panel in found}
    assert named == {
        "samples per second": ["samples per second"],
        "seconds an update": ["step time p50", "step time p99"],
        "share of the time (%)": ["goodput", "data wait share"],
        "MFU (%)": ["MFU"],
        "gradient norm": ["gradient norm"],
    }


def test_shares_are_in_per_cent_and_only_where_they_were_measured():
    found = {line.name: line.points for panel in panels({"": lines()}).evaluation for line in panel.lines}
    np.testing.assert_allclose(found["k-NN 20"], [[3, 20.0], [6, 20.0]])
    np.testing.assert_allclose(found["health RankMe"], [[3, 20.0], [6, 20.0]])


def test_several_runs_have_a_panel_a_metric_and_a_curve_a_run():
    other = [{"step": 5, "loss": 1.0, "accuracy": 0.5}]
    found = panels({"one": lines(), "two": other})
    curves = {panel.title: {line.name: line.number for line in panel.lines} for panel in found.training}
    assert curves["loss"] == {"one": 0, "two": 1}
    assert curves["pairs found in the batch"] == {"two": 1}
    assert curves["teacher entropy"] == {"one": 0}
    assert {panel.title for panel in found.evaluation} >= {"k-NN 10 (%)", "k-NN 20 (%)", "linear probe (%)"}


def test_names_with_numbers_are_in_their_order():
    found = panels({"": [{"step": 1, "knn_10": 0.1, "knn_100": 0.1, "knn_20": 0.1, "knn_200": 0.1}]})
    assert [line.name for line in found.evaluation[0].lines] == ["k-NN 10", "k-NN 20", "k-NN 100", "k-NN 200"]


def test_a_metric_is_called_as_its_panel_is_where_it_is_alone_there():
    named = {"accuracy": "pairs found in the batch", "embedding_std": "spread of features", "kl": "KL between views"}
    for name, title in named.items():
        (panel,) = panels({"": [{"step": 1, name: 0.5}]}).training
        assert logged(name) == panel.title == title
    assert logged("student_entropy") == spoken("student_entropy")


def test_the_best_is_the_smallest_where_less_is_better():
    assert best_of("knn_20", [0.1, 0.3, float("nan")]) == 0.3
    assert best_of("davis_j_decay", [0.1, 0.3]) == 0.1
    assert best_of("health_attention_entropy", [0.1, 0.3]) is None
    assert best_of("knn_20", [0.3, 0.3]) is None


def test_a_panel_shows_its_curves_and_a_sheet_all_panels():
    points = np.column_stack([np.arange(9.0), np.arange(9.0)])
    panel = Panel("title", [Line("one", points, 0), Line("two", points[:1], 9)])
    picture = draw_panel(panel)
    assert np.asarray(picture.convert("RGB")).min() < 100
    assert sheet([picture] * 4).size == (3 * picture.width, 2 * picture.height)
    named = sheet([draw_panel(panel, named=False)] * 4, ["one", "two"])
    assert named.width == 3 * picture.width and named.height > 2 * picture.height
    assert np.asarray(named)[2 * picture.height :].min() < 100  # the names, which are not in the panels


@pytest.mark.parametrize("text", [None, "", "not json\n", '["a list"]\n', '{"loss": 1}\n', b"\xff\xfe"])
def test_metrics_that_are_none_are_refused(tmp_path, text):
    path = tmp_path / "metrics.jsonl"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=r"metrics\.jsonl"):
        read_metrics(path)


def test_metrics_are_read_line_by_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines()))
    assert read_metrics(tmp_path / "metrics.jsonl") == lines()


def test_a_last_line_that_a_kill_cut_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines()) + '{"step": 7, "lo')
    assert read_metrics(path) == lines()


def test_a_damaged_line_is_named_by_its_number(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo\n{"step": 3}\n')
    with pytest.raises(InputError, match="line 2, is damaged"):
        read_metrics(path)


def test_a_run_that_logged_nothing_yet_is_told_so(tmp_path):
    with pytest.raises(InputError, match="logged nothing yet"):
        read_metrics(tmp_path / "metrics.jsonl")
