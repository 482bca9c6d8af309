"""Spikes: the rule against NumPy, and updates that never were."""

import contextlib
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssljax import build, configuration, mesh, optim, spikes, step
from ssljax.checkpoint import Checkpoints, Record
from ssljax.objectives.base import LossOutput
from ssljax.spike_log import SpikeLog

RULE = dict(factor=4.0, window=5)


@dataclasses.dataclass(frozen=True)
class Line:
    """Least squares, with a mean of what was seen as its state."""

    accumulates_exactly = True

    def batch_spec(self, size):
        return {"x": jax.ShapeDtypeStruct((size, 3), jnp.float32)}

    def init(self, key):
        return {"w": {"kernel": jax.random.normal(key, (3, 1)), "bias": -jnp.zeros((1, 1))}}, {"seen": jnp.zeros(3)}

    def loss(self, params, state, batch, key, step):
        x = batch["x"] + 1e-3 * jax.random.normal(key, batch["x"].shape)
        error = x @ params["w"]["kernel"] + params["w"]["bias"] - x.sum(1, keepdims=True)
        return LossOutput(jnp.mean(error**2), x.mean(0), {})

    def after_update(self, params, state, statistics, step):
        return {"seen": 0.9 * state["seen"] + 0.1 * statistics}

    def encoders(self, params, state):
        return {}


def batches(count, *, spikes=(), bad=(), size=8):
    """Yield batches, those numbered in `spikes` a hundred times as large, those in `bad` with a NaN."""
    for number in range(count):
        x = np.random.default_rng(number).normal(size=(size, 3)).astype(np.float32)
        x *= 100.0 if number in spikes else 1.0
        x[-1, 0] = np.nan if number in bad else x[-1, 0]
        yield {"x": x}


def optimizer(skips=True):
    rate = optim.cosine(start=0.1, end=0.0, steps=50, warmup_steps=5)
    built = optim.adamw(learning_rate=rate, weight_decay=optim.linear(start=0.0, end=0.1, steps=50), clip_norm=3.0)
    return spikes.skip_spikes(built, **RULE) if skips else built


def start(skips=True, devices=None, accumulate=1):
    """Return the first state and the jitted update."""
    devices = mesh.make_mesh(devices=devices or jax.devices()[:1])
    with jax.set_mesh(devices):
        state = step.initial_state(Line(), optimizer(skips), 0, devices)
    update = step.make_train_step(Line(), optimizer(skips), seed=0, accumulate=accumulate)
    compiled = jax.jit(update, donate_argnums=0)

    def run(state, given):
        """Return copies of the states and the metrics after each batch."""
        states, metrics = [], []
        with jax.set_mesh(devices):
            for batch in given:
                state, values = compiled(state, mesh.to_mesh(devices, batch, len(batch["x"])))
                states.append(jax.tree.map(np.array, state))
                metrics.append({name: float(value) for name, value in values.items()})
        return state, states, metrics

    return state, run


def same_bits(one, other):
    """Compare trees, signs of zeros too."""
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.array(a).tobytes() == np.array(b).tobytes()


def reference(rows, factor, window):
    """The rule in float64, one number after the other."""
    told, count, mean, variance = [], 0, np.zeros(2), np.zeros(2)
    for row in np.asarray(rows, np.float64):
        limit = mean + factor * np.maximum(np.sqrt(variance), 0.01 * np.abs(mean))
        spike = not np.isfinite(row).all() or (count >= window and (row > limit).any())
        told.append(spike)
        if spike:
            continue
        count += 1
        weight = 1.0 / min(count, window)
        # of a mixture of what was (1 - weight) and a point at `row` (weight): its mean and its variance
        new = (1 - weight) * mean + weight * row
        variance = (1 - weight) * (variance + (mean - new) ** 2) + weight * (row - new) ** 2
        mean = new
    return told, mean, variance


def test_the_rule_is_numpys():
    random = np.random.default_rng(0)
    rows = np.stack([5 - 0.01 * np.arange(400) + 0.1 * random.normal(size=400), random.lognormal(size=400)], 1)
    rows[[50, 51, 120], 0] += 5
    rows[[200, 3], 1] = np.nan, np.inf
    rows[300:, 0] = 2.0  # hardly moves
    rows[350, 0] = 2.01
    want, mean, variance = reference(rows, 6.0, 30)
    for numbers in (jnp, np):
        statistics, told = spikes.empty(numbers), []
        for row in rows.astype(np.float32):
            spike, taken = spikes.judge(statistics, numbers.asarray(row), factor=6.0, window=30, numbers=numbers)
            statistics = statistics if spike else taken
            told.append(bool(spike))
        assert told == want
        assert {3, 50, 51, 120, 200} <= set(np.flatnonzero(told)) and not told[350]
        np.testing.assert_allclose(statistics.mean, mean, rtol=1e-4)
        np.testing.assert_allclose(statistics.variance, variance, rtol=1e-3, atol=1e-5)


def test_a_skipped_update_leaves_all_but_counts_as_it_was():
    state, run = start()
    _, states, metrics = run(state, batches(12, spikes=(8,), bad=(2,)))
    assert [bool(row["skipped_in_a_row"]) for row in metrics] == [number in (2, 8) for number in range(12)]
    assert metrics[-1]["skipped"] == 2.0
    for number in (2, 8):
        before, after = states[number - 1], states[number]
        same_bits((before.params, before.state), (after.params, after.state))
        same_bits(before.opt_state.statistics, after.opt_state.statistics)
        adam = [
            s for s in jax.tree.leaves(before.opt_state.inner, is_leaf=lambda n: hasattr(n, "mu")) if hasattr(s, "mu")
        ]
        same = [
            s for s in jax.tree.leaves(after.opt_state.inner, is_leaf=lambda n: hasattr(n, "mu")) if hasattr(s, "mu")
        ]
        same_bits(adam, same)
        assert int(after.step) == number + 1
        counts = optax.tree.get_all_with_path(after.opt_state.inner, "count")
        assert [int(count) for path, count in counts if "Adam" not in str(path)] == [number + 1] * 2  # the schedules


def test_without_spikes_the_updates_are_those_without_the_rule():
    plain, run = start(skips=False)
    _, want, _ = run(plain, batches(6))
    guarded, run = start()
    _, got, metrics = run(guarded, batches(6))
    assert {row["skipped"] for row in metrics} == {0.0}
    for one, other in zip(want, got, strict=True):
        pairs = (one.params, one.state, one.opt_state), (other.params, other.state, other.opt_state.inner)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *pairs)  # compiled another way


def test_a_resumed_run_skips_the_same_with_the_same_bits(tmp_path):
    data = list(batches(14, spikes=(7, 10, 11)))
    state, run = start()
    _, whole, metrics = run(state, data)
    assert [row["skipped_in_a_row"] for row in metrics[7:13]] == [1, 0, 0, 1, 2, 0]
    state, run = start()
    state, *_ = run(state, data[:11])
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(11, state, Record(88, "", {}), {})
        checkpoints.wait()
        abstract, _ = step.abstract_state(Line(), optimizer(), mesh.make_mesh(devices=jax.devices()[:1]))
        again = checkpoints.restore(11, abstract)
    _, rest, told = run(again, data[11:])
    same_bits(rest[-1], whole[-1])
    assert told == metrics[11:]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_devices_and_micro_batches_skip_the_same(accumulate):
    data = list(batches(10, spikes=(7,), bad=(4,), size=16))
    state, run = start()
    _, one, want = run(state, data)
    state, run = start(devices=jax.devices(), accumulate=accumulate)
    _, many, got = run(state, data)
    assert [row["skipped_in_a_row"] for row in got] == [row["skipped_in_a_row"] for row in want]
    np.testing.assert_allclose(many[-1].params["w"]["kernel"], one[-1].params["w"]["kernel"], rtol=1e-2)


def test_the_default_keeps_the_states_layout():
    config = configuration.load("configs/mae.py:smoke")
    made = build.optimizer(config).init({"encoder": {"kernel": jnp.zeros((2, 2))}})
    config.unlock()
    config.spikes.policy = "skip"
    guarded = build.optimizer(config).init({"encoder": {"kernel": jnp.zeros((2, 2))}})
    assert isinstance(guarded, spikes.Guarded)
    assert jax.tree.structure(guarded.inner) == jax.tree.structure(made)
    del config.spikes
    assert jax.tree.structure(
        build.optimizer(config).init({"encoder": {"kernel": jnp.zeros((2, 2))}})
    ) == jax.tree.structure(made)
    before = configuration.plain(configuration.load("configs/mae.py:smoke"))
    older = {key: value for key, value in before.items() if key != "spikes"}
    assert configuration.differences(older, before) == []
    assert "spikes.policy (stop there, skip here)" in configuration.differences(
        older, before | {"spikes": before["spikes"] | {"policy": "skip"}}
    )


def spike_log(folder, begun=0, policy="stop"):
    rule = dict(policy=policy, patience=2, **RULE)
    return SpikeLog(folder / "spikes.jsonl", start=begun, batch_size=2, where="file {}".format, writes=True, **rule)


def rows(folder):
    return [json.loads(line) for line in (folder / "spikes.jsonl").read_text().splitlines()]


def test_spikes_are_listed_once_however_often_the_run_is_restarted(tmp_path, capsys):
    for begun in (0, 4, 7):
        log = spike_log(tmp_path, begun, "skip")
        for number in range(begun + 1, 10):
            skipped = {"skipped_in_a_row": 1.0 if number in (5, 8) else 0.0}
            assert (
                log.see(number, {"loss": float("nan") if number == 5 else 2.0, "gradient_norm": 1.0} | skipped) is None
            )
    assert [(row["step"], row["loss"], row["skipped"]) for row in rows(tmp_path)] == [(5, "nan", True), (8, 2.0, True)]
    assert rows(tmp_path)[0]["samples"] == [{"position": 8, "where": "file 8"}, {"position": 9, "where": "file 9"}]
    assert "ssljax: update 5 was skipped as a spike (loss nan, gradient norm 1)" in capsys.readouterr().err


def test_by_default_spikes_are_listed_and_a_loss_that_is_not_finite_is_told(tmp_path, capsys):
    log = spike_log(tmp_path)
    for number in range(1, 9):
        assert log.see(number, {"loss": 9.0 if number == 7 else 2.0 + 0.1 * (number % 2), "gradient_norm": 1.0}) is None
    assert [(row["step"], row["loss"], row["skipped"]) for row in rows(tmp_path)] == [(7, 9.0, False)]
    assert "update 7 is a spike (loss 9, gradient norm 1)" in capsys.readouterr().err
    assert log.see(9, {"loss": float("inf"), "gradient_norm": 1.0}) == "inf"


def test_too_many_in_a_row_end_the_run(tmp_path):
    log = spike_log(tmp_path, policy="skip")
    told = [log.see(n, {"loss": 50.0, "gradient_norm": 1.0, "skipped_in_a_row": float(n)}) for n in (1, 2, 3)]
    assert told == [None, None, "50.0, and it is update 3 in a row that was skipped"]
