"""What the ablations share: how long a run may take, and how it is judged."""

from __future__ import annotations

from typing import Any, NamedTuple

from ssljax.errors import InputError

BUDGETS = ("laptop", "accelerator", "paper")
"""Minutes a run on a CPU core with a tiny ViT; hours on one accelerator with the paper's ViT-S/16; its whole recipe."""

METRICS = ("knn_20", "davis_j_and_f", "tracks_patch")
"""Of the protocols that every budget asks for."""

LAPTOP_UPDATES = 195
"""Updates of a run with the budget "laptop"."""

ACCELERATOR_SHARE = 50
"""The recipe is so many times longer than a run with the budget "accelerator"."""


class Budget(NamedTuple):
    """A recipe that fits a budget.

    Attributes:
        config: FILE[:ARG].
        overrides: Values by dotted key.
    """

    config: str
    overrides: dict[str, Any]


def dora(budget: str) -> Budget:
    """Return DoRA's recipe for a budget; schedules and warm-ups keep their share of a run that is shorter.

    Raises:
        InputError: There is no such budget.
    """
    check(budget)
    unseen = {"data.seconds": (0.0, -5.0)}  # the rest is what tracks are judged on
    if budget == "paper":
        return Budget("configs/dora.py", evaluations(budget) | unseen)
    if budget == "accelerator":
        shorter = {"samples_per_epoch": 320_000 // ACCELERATOR_SHARE}
        return Budget("configs/dora.py", evaluations(budget) | unseen | shorter)
    tiny = {
        "batch_size": 4,
        "samples_per_epoch": LAPTOP_UPDATES * 4 // 15,  # of 15 epochs
        "models.encoder.heads": 6,  # as many as ViT-S/16 has: objects start from heads
        "objective.momentum.start": 0.99,  # so few updates would leave the teacher where it began
        "optimizer.learning_rate.start": 1e-3,
        "log.tensorboard": False,
    }
    return Budget("configs/dora.py:demo", evaluations(budget) | tiny)


def evaluations(budget: str) -> dict[str, Any]:
    """Return the overrides that say how a run is judged: k-NN, DAVIS and tracks; their data are the user's to name.

    On a laptop images and frames are small; a few thousand images and two or three sequences then take seconds.

    Raises:
        InputError: There is no such budget.
    """
    check(budget)
    asked: dict[str, Any] = {"evaluate.protocols": ("knn", "davis", "tracks")}
    if budget != "laptop":
        return asked | {"evaluate.tracks.seconds": (-5.0, None)}
    return asked | {
        "evaluate.knn.size": 32,
        "evaluate.davis.size": 128,
        "evaluate.tracks.seconds": (-2.0, None),  # what the demo's recipe does not train on
        "evaluate.tracks.draws": 2,
    }


def check(budget: str) -> None:
    """Raise InputError where there is no such budget."""
    if budget not in BUDGETS:
        raise InputError(f"There is no budget {budget!r}; give one of {', '.join(BUDGETS)}.")
