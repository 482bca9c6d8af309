"""The linear probe inside a run and the commands of the trained protocols, on a small masked autoencoder."""

import json

import jax
import numpy as np
import pytest
from pictures import make_folder

from ssljax import configuration
from ssljax.cli import main
from ssljax.errors import InputError
from ssljax.train import train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, count in (("train", 12), ("test", 4)):
        make_folder(folder / "raw" / name, dict.fromkeys("abc", count))
        assert main(["prepare", "images", str(folder / "raw" / name), "--output", str(folder / name)]) == 0
    return folder


def config_of(data, **linear):
    config = configuration.load("configs/mae.py:smoke", [f"--config.data.data={data / 'train'}"])
    if linear:
        pair = {name: str(data / name) for name in ("train", "test")}
        config.evaluate.update(every=1, protocols=("linear",))
        config.evaluate.linear.update(**pair, batch_size=16, epochs=4.0, learning_rates=(0.1, 1.0), **linear)
    return config


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run with the linear probe after each of two updates; its state is that of a run without."""
    folder = tmp_path_factory.mktemp("runs")
    without = train(config_of(data), folder / "off")
    probed = train(config_of(data, n_blocks=2), folder / "on")
    jax.tree.map(np.testing.assert_array_equal, without, probed)
    return folder / "on"


def pair(data):
    return ["--train", str(data / "train"), "--test", str(data / "test"), "--batch-size", "16"]


@pytest.mark.long
def test_the_command_agrees_with_the_run(data, run, capsys):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [0 <= row["linear"] <= 1 for row in rows] == [True, True]
    options = ["--no-augment", "--epochs", "4", "--n-blocks", "2", "--learning-rates", "0.1", "1.0"]
    assert main(["evaluate", "linear", "--workdir", str(run), *pair(data), *options, "--baselines"]) == 0
    record = json.loads((run / "evaluate" / "linear.json").read_text())
    assert record["results"]["trained"]["linear"] == rows[-1]["linear"]
    assert set(record["results"]) == {"trained", "random initialisation", "pixels"}
    assert len(record["details"]["trained"]["grid"]) == 2 and record["data"]["train"]["images"] == 36
    assert "| pixels " in capsys.readouterr().out


@pytest.mark.long
def test_fine_tuning_has_no_pixels(data, run):
    options = ["--epochs", "1", "--baselines"]
    assert main(["evaluate", "finetune", "--workdir", str(run), *pair(data), *options]) == 0
    record = json.loads((run / "evaluate" / "finetune.json").read_text())
    assert set(record["results"]) == {"trained", "random initialisation"}


@pytest.mark.long
def test_what_the_encoder_lacks_is_told_before_training(data, run, tmp_path, capsys):
    with pytest.raises(InputError, match="n_blocks is 4, but the encoder has 2 blocks"):
        train(config_of(data, seed=0), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert main(["evaluate", "linear", "--workdir", str(run), *pair(data)]) == 2
    assert "n_blocks is 4" in capsys.readouterr().err
