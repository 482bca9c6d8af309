"""Where every leaf of a train state lives on machines too large for a test: the golden tables in tests/golden.

    PYTHONPATH=. python tests/sharding_tables.py

writes them anew; do so when the sharding rule or a model changed on purpose, and look at the difference.
"""

import json
from pathlib import Path

import jax
from jax.sharding import AbstractMesh, AxisType

from ssljax import build, configuration, mesh, step

CASES = {
    "dora_vits16_v5e_16x16": ({"data": 16, "fsdp": 16}, []),
    "dora_vitl16_v5p_4x4x16": ({"data": 16, "fsdp": 16}, ["--config.models.encoder.size=l"]),
    "dora_vitl16_h100_1x8x8": ({"data": 8, "fsdp": 8}, ["--config.models.encoder.size=l"]),
}
"""By name: sizes of the mesh's axes, those that are not named being 1, and overrides of configs/dora.py."""


def path(name):
    return Path(__file__).parent / "golden" / f"shardings_{name}.json"


def table(name):
    """Return {leaf: [shape, axis of the mesh or None for each axis]}."""
    sizes, overrides = CASES[name]
    config = configuration.load("configs/dora.py", overrides)
    axes = dict.fromkeys(mesh.AXES, 1) | sizes
    devices = AbstractMesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))
    state, _ = step.abstract_state(build.objective(config), build.optimizer(config), devices)
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {
        jax.tree_util.keystr(place, simple=True, separator="/"): [list(leaf.shape), _axes(leaf)]
        for place, leaf in leaves
    }


def _axes(leaf):
    spec = tuple(leaf.sharding.spec)
    return [list(axis) if isinstance(axis, tuple) else axis for axis in spec] + [None] * (len(leaf.shape) - len(spec))


def write():
    for name in CASES:
        rows = [f"  {json.dumps(leaf)}: {json.dumps(where)}" for leaf, where in table(name).items()]
        path(name).write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    write()
