"""The PyTorch baselines of the step benchmark against the objectives: the same weights and views, the same losses."""

import jax
import numpy as np
import pytest

from benchmarks import step_ssljax
from ssljax import build, step

pytestmark = pytest.mark.long
torch = pytest.importorskip("torch")

TINY = [
    *("--config.batch_size=3", "--config.models.encoder.width=32", "--config.models.encoder.heads=4"),
    *("--config.models.encoder.depth=2", "--config.seed=1"),
    *("--config.optimizer.learning_rate.warmup_epochs=0", "--config.optimizer.learning_rate.start=0.0001"),
]
HEAD = ["--config.models.head.prototypes=96", "--config.models.head.hidden=24", "--config.models.head.bottleneck=16"]
PROJECTOR = ["--config.models.projector.hidden=24", "--config.models.projector.outputs=16"]
DECODER = ["--config.models.decoder.hidden=32", "--config.models.decoder.heads=4"]
DROP = ["--config.models.encoder.drop_path=0.0"]
OVERRIDES = {
    **dict.fromkeys(("dora", "dino"), TINY + DROP + HEAD),
    "mae": TINY + DECODER,
    # In a batch of noise all images look alike: batch norm and Adam make much of rounding where steps are larger.
    "simclr": TINY + DROP + PROJECTOR + ["--config.optimizer.learning_rate.start=1e-6"],
}
CASES = [("dora", "released"), *((name, "eager") for name in OVERRIDES)]


def torch_parameters(params):
    """Return our parameters under the baselines' names and in PyTorch's layouts."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        *keys, last = (key.key for key in path)
        leaf, blocks = np.asarray(leaf), "blocks" in keys
        for layer in range(len(leaf) if blocks else 1):
            value = leaf[layer] if blocks else leaf
            name = ".".join(f"blocks.{layer}" if key == "blocks" else key for key in [*keys, last])
            if last == "kernel" and keys[-1] == "patch":
                side = int((len(value) // 3) ** 0.5)
                value = value.reshape(side, side, 3, -1).transpose(3, 2, 0, 1)
            elif last == "kernel":
                value = value.T
            value = value[:, None] if last == "gain" else value
            rename = {"kernel": "weight", "scale": "weight"}.get(last, last)
            found[name.removesuffix(last) + rename] = torch.from_numpy(value.copy())
    return found


def ours(config, problem, updates):
    """Return the losses of some updates of our step, what each drew by chance, and the first parameters."""
    objective = step_ssljax.with_given_views(build.objective(config), problem)
    optimizer = build.optimizer(config)
    devices = step_ssljax.mesh.make_mesh("", jax.local_devices()[:1])
    batch = step_ssljax._memory(config, problem, objective, devices)()[0]
    drawn, losses = [], []
    with jax.set_mesh(devices):
        state = step.initial_state(objective, optimizer, config.seed, devices)
        first = jax.device_get(state.params)
        update = jax.jit(step.make_train_step(objective, optimizer, seed=config.seed))
        for _ in range(updates):
            key = jax.random.fold_in(step.rng.named(jax.random.key(config.seed), "step"), state.step)
            if config.objective.name == "dora":
                drawn.append((np.asarray(objective._heads(key, batch["position"])),))
            else:
                drawn.append((np.asarray(objective.draw(batch, key)[1]),) if config.objective.name == "mae" else ())
            state, metrics = update(state, batch)
            losses.append(float(metrics["loss"]))
    return losses, drawn, first


@pytest.mark.parametrize(("name", "baseline"), CASES)
def test_the_losses_of_four_updates_are_ours(name, baseline):
    from benchmarks import step_torch

    config = step_ssljax.read_config(f"benchmarks/small.py:{name}", OVERRIDES[name])
    problem = step_ssljax.describe(config)
    expected, drawn, params = ours(config, problem, 4)
    objective = step_torch.make(baseline, problem)
    missing, unexpected = objective.student.load_state_dict(torch_parameters(params), strict=False)
    assert not unexpected
    assert {key.rpartition(".")[2] for key in missing} <= {"position", "gain"}  # which are fixed
    if objective.teacher is not None:
        objective.teacher.load_state_dict(objective.student.state_dict())
    update = step_torch.Update(objective, problem, "cpu", None)
    views = step_torch.batch_of(objective, problem, "cpu")
    draws = iter(drawn)
    update.drawn = lambda: tuple(torch.tensor(one) for one in next(draws))
    found = [update(*views) for _ in drawn]
    assert found[0] != pytest.approx(found[-1], rel=1e-3)  # the updates do something
    np.testing.assert_allclose(found, expected, rtol=2e-5)
