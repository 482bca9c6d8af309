"""Operations of an update counted by hand against those of the traced train step."""

import pytest

from benchmarks import by_hand, step_ssljax
from ssljax import build


def counted(location, *overrides):
    config = step_ssljax.read_config(location, list(overrides))
    return step_ssljax.counts(config, build.objective(config), build.optimizer(config), step_ssljax.describe(config))


@pytest.mark.parametrize(
    ("location", "overrides"),
    [
        ("configs/dora.py", ["--config.batch_size=2"]),
        ("configs/dora.py", ["--config.batch_size=2", "--config.objective.mask_mode=drop"]),
        ("configs/dora.py", ["--config.batch_size=2", "--config.objective.chunks=4"]),
        ("configs/dino.py", ["--config.batch_size=2"]),
        ("configs/mae.py", ["--config.batch_size=2"]),
        ("configs/mae.py:video", ["--config.batch_size=2"]),
        ("configs/mocov3.py", ["--config.batch_size=8"]),
        ("benchmarks/small.py:simclr", ["--config.batch_size=8"]),
    ],
)
def test_the_count_by_hand_is_the_traced_one(location, overrides):
    counts = counted(location, *overrides)
    assert counts["flops"] == pytest.approx(counts["traced_flops"], rel=0.01)


@pytest.mark.parametrize(
    ("location", "overrides"),
    [
        ("configs/simclr.py:cifar10", []),
        ("benchmarks/small.py:dino", ["--config.models.encoder.registers=4"]),
        ("benchmarks/small.py:dino", ["--config.models.encoder.mlp=swiglu"]),
    ],
)
def test_what_no_formula_is_written_for_has_no_count(location, overrides):
    counts = counted(location, *overrides)
    assert counts["flops"] is None
    assert counts["traced_flops"] > 0


def test_a_block_of_one_token_and_one_channel():
    # Query, key, value and output: 4 products; the MLP: 2 of 3 channels; a token's weight and its sum: 2.
    assert by_hand.block(1, 1, 3) == 2 * (4 + 2 * 3 + 2)
