"""What the train step, the evaluations and the exports ask of an objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from jaxtyping import Float

from ssljax.errors import InputError
from ssljax.models.pure import Params, Pure
from ssljax.ops.arrays import Array

PyTree = Any
Schedule = Callable[[Any], Any]
"""A value as a function of the number of updates done."""


class LossOutput(NamedTuple):
    """What `Objective.loss` returns.

    Attributes:
        loss: Scalar, the mean over the batch.
        statistics: Means over the batch that `after_update` needs; averaged over micro-batches.
        metrics: Scalars by name, for the log; averaged over micro-batches.
    """

    loss: Float[Array, ""]
    statistics: PyTree
    metrics: dict[str, Array]


class Encoder(NamedTuple):
    """A trained network as evaluations, exports and reports see it: `encoder(images)`, images normalised.

    Attributes:
        model: Its shape.
        params: Its parameters, with the statistics of batch norms.
        heads: What pretraining puts on it, by role ("head", "decoder", ...): each a model and its parameters.
    """

    model: Pure
    params: Params
    heads: Mapping[str, tuple[Pure, Params]] = MappingProxyType({})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model with its parameters."""
        return self.model(self.params, *args, **kwargs)


@runtime_checkable
class Objective(Protocol):
    """One self-supervised objective: a frozen dataclass of models and plain values, its methods pure functions.

    Attributes:
        accumulates_exactly: Whether the average of micro-batch gradients is the gradient of the whole batch. False for
            contrastive and batch-norm objectives, which refuse gradient accumulation.
    """

    accumulates_exactly: bool

    def batch_spec(self, batch_size: int) -> PyTree:
        """Return the batch's shapes and dtypes, a tree of `jax.ShapeDtypeStruct`: the contract with the loader."""
        ...

    def init(self, key: jax.Array) -> tuple[Params, PyTree]:
        """Return the trained parameters and the untrained state (EMA teacher, centre, batch statistics)."""
        ...

    def loss(self, params: Params, state: PyTree, batch: PyTree, key: jax.Array, step: Array) -> LossOutput:
        """Return the loss of a batch; never changes the state. `key` is the step's own."""
        ...

    def after_update(self, params: Params, state: PyTree, statistics: PyTree, step: Array) -> PyTree:
        """Return the state after the optimiser's update, `params` being the new ones; called once per update."""
        ...

    def encoders(self, params: Params, state: PyTree) -> dict[str, Encoder]:
        """Return the networks worth keeping, by what they encode: "image", "audio", ...

        An objective that keeps two copies of the image encoder gives them as "student" and "teacher", too.
        """
        ...


def exponential_moving_average(average: PyTree, new: PyTree, momentum: Any) -> PyTree:
    """Return momentum * average + (1 - momentum) * new, leaf by leaf."""
    return jax.tree.map(lambda a, n: momentum * a + (1.0 - momentum) * n, average, new)


def check_norm_momentum(value: float) -> None:
    """Raise InputError where the momentum of running statistics is no number from 0 to below 1."""
    if not 0 <= value < 1:
        raise InputError(f"norm_momentum is {value}; give a number from 0 to below 1.")


_NEVER = 2**30
"""An update by which every schedule has come to its end."""


def check_momentum(**momenta: float | Schedule) -> None:
    """Check numbers, and schedules where they start and end, that weigh an average.

    Raises:
        InputError: One is not from 0 to 1.
    """
    for name, value in momenta.items():
        for number in _ends(value):
            if not 0 <= number <= 1:
                raise InputError(f"{name} is {number:g}; give a number from 0 to 1.")


def check_temperature(**temperatures: float | Schedule) -> None:
    """Check numbers, and schedules where they start and end, that logits are divided by.

    Raises:
        InputError: One is not above 0.
    """
    for name, value in temperatures.items():
        for number in _ends(value):
            if not number > 0:
                raise InputError(f"{name} is {number:g}; give a number above 0.")


def _ends(value: float | Schedule) -> tuple[float, ...]:
    return (float(value(0)), float(value(_NEVER))) if callable(value) else (value,)
