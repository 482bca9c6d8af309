"""Whole runs that meet damage: of a checkpoint, of a batch, and data that do not come."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
import toy as module

from ssljax import build, configuration
from ssljax.errors import InputError
from ssljax.train import train

TESTS = Path(__file__).parent


def toy(**changes):
    config = configuration.load("toy")
    config.unlock()
    config.update_from_flattened_dict({"checkpoint.share": 1.0} | changes)
    return config


def flip(folder):
    """Flip a bit in the middle of a checkpoint's largest file."""
    path = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.long
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(tmp_path, capsys):
    whole = train(toy(), tmp_path)
    flip(tmp_path / "checkpoints/8")
    assert int(build.restore(tmp_path).state.step) == 6  # of use to who only looks, too
    with pytest.raises(InputError, match="checkpoints/8 cannot be read"):
        build.restore(tmp_path, 8)
    again = train(toy(), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again, whole)
    assert "checkpoints/damaged/8; that of step 6 is used" in capsys.readouterr().err
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        *range(1, 9)
    ]
    for step in (6, 8):
        flip(tmp_path / f"checkpoints/{step}")
    with pytest.raises(InputError, match="All checkpoints in .* are damaged"):
        train(toy(), tmp_path)  # and does not begin anew over what there is


@pytest.mark.long
def test_a_bad_batch_is_skipped_and_the_resumed_run_is_the_same(tmp_path, monkeypatch):
    views = module.views

    def spoilt(frames, key):
        """Return the views, not finite where a clip is black."""
        one, several = views(frames, key)
        black = jax.numpy.where(frames.max() == 0, np.nan, 0.0).astype(one.dtype)
        return one + black, several

    class Clips(module.Clips):
        def __getitem__(self, position):
            sample = super().__getitem__(position)
            return sample | {"frames": sample["frames"] * np.uint8(position != 37)}  # of update 5

    monkeypatch.setattr(module, "views", spoilt)
    monkeypatch.setattr(module, "Clips", Clips)
    with pytest.raises(InputError, match="The loss of update 5 is nan"):
        train(toy(), tmp_path / "stops")
    whole = train(toy(**{"spikes.policy": "skip"}), tmp_path / "whole")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(whole.params))
    (row,) = [json.loads(line) for line in (tmp_path / "whole/spikes.jsonl").read_text().splitlines()]
    assert (row["step"], row["loss"], row["skipped"]) == (5, "nan", True)
    assert [sample["position"] for sample in row["samples"]] == list(range(32, 40))
    lines = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    assert ["loss" in line for line in lines] == [line["step"] != 5 for line in lines]
    assert [line["skipped"] for line in lines] == [0] * 4 + [1] * 4
    flip(tmp_path / "whole/checkpoints/8")
    again = train(toy(**{"spikes.policy": "skip"}), tmp_path / "whole")  # from update 6
    jax.tree.map(np.testing.assert_array_equal, again, whole)


class Stuck(module.Clips):
    """Clips of which those after the first batches are never given."""

    def __getitem__(self, position):
        if position >= 24:
            threading.Event().wait()
        return super().__getitem__(position)

    def where(self, position):
        return f"clip {position} of a dead disk"


@pytest.mark.long
def test_a_run_whose_data_do_not_come_ends_and_says_why(tmp_path):
    code = "import sys; from ssljax.cli import main; sys.exit(main(sys.argv[1:]))"
    more = ["--config.data.name=test_survive.Stuck", "--config.loader.timeout=4", "--config.checkpoint.every=2"]
    arguments = ["train", "--config", "toy", "--workdir", str(tmp_path), *more]
    environment = os.environ | {"PYTHONPATH": f"{TESTS}:{TESTS.parent}", "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "ssljax: No data came for 4 s: still reading clip 24 of a dead disk, of position 24" in done.stderr
    assert "Traceback" not in done.stderr
    assert int(build.restore(tmp_path).state.step) == 2
