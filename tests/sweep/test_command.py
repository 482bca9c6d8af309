"""`ssljax sweep` as a user meets it, on the local executor with runs of seconds."""

import json
import os
from pathlib import Path

import pytest
from pictures import make_folder

from ssljax import build
from ssljax.cli import main

TESTS = Path(__file__).parents[1]
FILE = """
from ssljax.sweep import Sweep, Variant

def sweep(budget="laptop"):
    variants = [Variant("plain"), Variant("broken", {{"optimizer.learning_rate.start": 1e30}}), Variant("one", {one})]
    return Sweep("toy", variants, {common}, seeds=(0,), metrics=("health_rankme",), varies="objective.objects")
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What the runs find: this clone, and one device each."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent)]))
    monkeypatch.setenv("XLA_FLAGS", "")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    make_folder(folder / "raw", {"a": 12})
    assert main(["prepare", "images", str(folder / "raw"), "--output", str(folder / "set")]) == 0
    return folder / "set"


@pytest.fixture
def file(tmp_path, images):
    health = {"evaluate.health.data": str(images), "evaluate.health.batch_size": 4}
    common = {"epochs": 2, "log.every": 1, "log.tensorboard": False, "evaluate.protocols": ("health",)} | health
    path = tmp_path / "mine.py"
    path.write_text(FILE.format(common=common, one={"objective.objects": 1}))
    return str(path)


def lines(path):
    return path.read_text().splitlines()


@pytest.mark.long
def test_a_run_that_fails_stops_no_other_and_nothing_is_done_twice(file, tmp_path, capsys):
    folder = tmp_path / "all"
    command = ["sweep", file, "--workdir", str(folder), "--only", "plain", "broken", "--jobs", "1"]
    with pytest.raises(SystemExit) as ended:
        main(command)
    told = capsys.readouterr().err
    assert ended.value.code == 1
    assert "ssljax: broken/seed-0 failed: The loss of update" in told and "finished plain/seed-0" in told

    written = json.loads((folder / "sweep.json").read_text())
    assert written["reference"] == "plain" and written["metrics"] == ["health_rankme"]
    assert [run["folder"] for run in written["runs"]] == ["plain/seed-0", "broken/seed-0"]
    assert written["runs"][0]["differs"]["objective.objects"] == 3
    run, broken = folder / "plain" / "seed-0", folder / "broken" / "seed-0"
    assert json.loads((run / "finished.json").read_text())["updates"] == 4
    assert json.loads((broken / "failed.json").read_text())["code"] == 2
    results = json.loads((run / "evaluate" / "health.json").read_text())
    assert set(results["results"]) == {"trained", "random initialisation", "pixels"} and results["step"] == 4
    assert int(build.restore(run).state.step) == 4
    assert "\n4 of 4 updates in " in (run / "log.txt").read_text()

    files = [run / "finished.json", run / "evaluate" / "health.json", run / "metrics.jsonl", run / "log.txt"]
    before = [path.stat().st_mtime_ns for path in files], len(lines(run / "starts.jsonl"))
    more = [*command[:4], "--jobs", "1", "--only", "plain", "one"]
    assert main(more) == 0
    assert ([path.stat().st_mtime_ns for path in files], len(lines(run / "starts.jsonl"))) == before
    written = json.loads((folder / "sweep.json").read_text())
    assert [run["variant"] for run in written["runs"]] == ["plain", "broken", "one"]

    (folder / "one" / "seed-0" / "evaluate" / "health.json").unlink()  # what was not evaluated is, without training
    assert main(more) == 0
    assert (folder / "one" / "seed-0" / "evaluate" / "health.json").exists()
    assert len(lines(folder / "one" / "seed-0" / "starts.jsonl")) == 1
    assert [path.stat().st_mtime_ns for path in files] == before[0]

    capsys.readouterr()
    assert main([*more, "--config.epochs=3"]) == 2
    assert "plain/seed-0 holds a run of another config: epochs (2 there, 3 here)" in capsys.readouterr().err


def told(capsys, *command):
    """Return the one line on standard error of a command that must fail with exit code 2."""
    capsys.readouterr()
    assert main(list(command)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def test_what_cannot_run_is_told_before_anything_is_launched(file, tmp_path, capsys):
    sweep = ["sweep", file, "--workdir", str(tmp_path / "all"), "--only", "one"]
    knn = "--config.evaluate.protocols=('health','knn')"
    error = told(capsys, *sweep, knn)
    assert (
        "variant one: config.evaluate.knn lacks data: give --config.evaluate.knn.test=... --config.evaluate.knn.train="
        in error
    )
    assert "--config.evaluate.protocols=\"('health',)\"" in error
    assert "variant one: " in (error := told(capsys, *sweep, "--config.evaluate.health.data=nowhere"))
    assert "nowhere" in error
    assert "variant one: config.batch_size is 0" in told(capsys, *sweep, "--config.batch_size=0")
    assert "variant one: batch_size 8 does not divide into 3" in told(capsys, *sweep, "--config.accumulate=3")
    assert "variant one: nowhere" in told(capsys, *sweep, "--config.init_from=nowhere")
    assert "variant one: config.objective: " in told(capsys, *sweep, "--config.objective.name=dino")
    assert "--slurm is of --executor slurm" in told(capsys, *sweep, "--slurm", "time=5")
    assert "--topology says for what --dry-run plans" in told(capsys, *sweep, "--topology", "cpu:1")
    assert "varies objective.objects" in told(capsys, *sweep, "--config.objective.objects=2")
    text = Path(file).read_text()
    Path(file).write_text(
        text.replace('("health_rankme",)', '("health_rankme", "loss", "knn_20", "rankme", "health-rankme")')
    )
    error = told(capsys, *sweep[:4], "--config.optimizer.learning_rate.warmup_epochs=0")
    assert "has the metrics health-rankme, knn_20, rankme, which no protocol and no variant's training reports" in error
    assert not (tmp_path / "all").exists()


def test_a_dry_run_says_what_there_is_and_writes_nothing(file, tmp_path, capsys):
    sweep = ["sweep", file, "--workdir", str(tmp_path / "all"), "--dry-run", "--only", "one", "--seeds", "2"]
    assert main(sweep) == 0
    said = capsys.readouterr().out
    assert "waiting  one/seed-1: toy with optimizer.learning_rate.start=" in said and "objective.objects=1" in said
    assert "1 variants, 2 runs" in said and "All configs and their data can be used." in said
    assert not (tmp_path / "all").exists()


@pytest.mark.long
def test_a_dry_run_plans_each_variant(file, tmp_path, capsys, monkeypatch):
    from ssljax.plan import estimate
    from ssljax.plan.compiled import OutOfMemory

    for name in ("JAX_PLATFORMS", "TPU_SKIP_MDS_QUERY", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # put back afterwards
    make, plans = estimate.make_plan, []

    def limited(name, config, target):
        if config.objective.objects == 1:
            raise OutOfMemory("The step needs 3 GiB more.", 0)
        plans.append(make(name, config, target))
        return plans[-1]

    monkeypatch.setattr(estimate, "make_plan", limited)
    sweep = ["sweep", file, "--workdir", str(tmp_path / "all"), "--dry-run", "--topology", "cpu:1", "--seeds", "3"]
    assert main([*sweep, "--only", "plain", "one"]) == 0
    said = capsys.readouterr().out
    assert "one: does not fit: The step needs 3 GiB more." in said and "without 1 variants" in said
    assert f"Together {3 * plans[0].hours:.2f} hours" in said and "4 updates" in said
