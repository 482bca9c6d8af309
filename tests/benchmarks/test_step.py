"""The benchmark of the train step as a command."""

import sys

import pytest

from benchmarks import step


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variants", "seed=1"], "--variants are of one config"),
        (["--config", "configs/dora.py:smoke", "--variants", "seed"], "has 'seed': give KEY=VALUE"),
        (["--config", "configs/dora.py:smoke", "--variants", "seed=1", "seed=1"], "names one twice"),
        (["--config", "configs/dora.py:smoke", "--topology", "cpu:2", "--variants", "seed=1"], "runs nothing"),
        (["--config", "configs/dora.py:smoke", "--variants", "objective.mask=1"], "no key objective.mask "),
        (["--confg", "configs/dora.py"], "not understood: --confg"),
        (["--rounds", "0"], "--rounds is 0: give at least 1"),
        (["--json", "no/such/x.json"], "there is no folder no/such"),
        (["--baselines", "eager", "--torch", "no/such/python"], "no interpreter with PyTorch"),
        (["--config", "configs/dora.py:smoke", "--config.objective.chunks=3"], "chunks is 3; give a divisor"),
    ],
)
def test_bad_arguments_are_told_before_anything_runs(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks.step", *arguments])
    with pytest.raises(SystemExit) as ended:
        step.main()
    assert message in f"{ended.value} {capsys.readouterr().err}"


@pytest.mark.long
def test_variants_take_turns_with_the_config():
    variant = "objective.mask_mode=drop objective.kept_share=0.25"
    result = step.measure("configs/dora.py:smoke", [], [variant], [], sys.executable, 2)
    ours, other = result["rows"]
    assert [row["name"] for row in (ours, other)] == ["ssljax", variant]
    assert [len(row["rounds"]) for row in (ours, other)] == [2, 2]
    assert ours["rounds"][0]["loss"] != other["rounds"][0]["loss"]
    (ratio,) = result["ratios"]
    assert (ratio["name"], ratio["than"]) == (variant, "ssljax")
    shares = sorted(b["seconds"] / a["seconds"] for a, b in zip(ours["rounds"], other["rounds"], strict=True))
    assert shares[0] <= ratio["seconds"] <= shares[1]
    assert f"{variant}: " in result["text"]
