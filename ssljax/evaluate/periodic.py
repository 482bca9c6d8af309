"""Evaluation while a model trains: which data, how often."""

from __future__ import annotations

import functools
from typing import Any

import jax

from ssljax.data.images import Labelled
from ssljax.errors import InputError
from ssljax.evaluate.encoders import image_features
from ssljax.evaluate.knn import knn
from ssljax.objectives.base import Objective


def labelled_pair(*, train: str, test: str, size: int, batch_size: int = 256) -> tuple[Labelled, Labelled]:
    """Return the two prepared sets of labelled images that a protocol compares.

    Raises:
        InputError: One cannot be used, or their classes differ.
    """
    for name, place in (("train", train), ("test", test)):
        if not place:
            raise InputError(f"k-NN needs labelled images, but no {name} set is named; give prepared folders as both.")
    first, second = (Labelled(place, size=size, batch_size=batch_size) for place in (train, test))
    if first.classes != second.classes:
        one, other = (", ".join(labelled.classes[:5]) for labelled in (first, second))
        raise InputError(
            f"{train} has the classes {one}, ... and {test} has {other}, ...; give two parts of one data set."
        )
    return first, second


class Periodic:
    """k-NN of the live encoder every so many updates, and after the last; draws nothing and changes nothing."""

    def __init__(
        self,
        objective: Objective,
        mesh: jax.sharding.Mesh,
        *,
        every: int,
        size: int,
        train: str = "",
        test: str = "",
        batch_size: int = 256,
    ) -> None:
        """Open the data, where it will be asked for.

        Args:
            objective: Whose image encoder is evaluated.
            mesh: Of the run.
            every: Updates between evaluations; 0 for none.
            size: Side of the images in pixels.
            train: A prepared set of labelled images.
            test: Another with the same classes.
            batch_size: Images encoded at once.

        Raises:
            InputError: See `labelled_pair` and `image_features`; or `every` is below 0.
        """
        if every < 0:
            raise InputError(f"evaluate.every is {every}; give a number of updates, or 0 for never.")
        self._every, self._mesh = every, mesh
        if every:
            self._pair = labelled_pair(train=train, test=test, size=size, batch_size=batch_size)
            self._features = image_features(objective, size)

    def due(self, done: int, total: int) -> bool:
        """Return whether to evaluate after `done` of `total` updates."""
        return bool(self._every) and (done % self._every == 0 or done == total)

    def __call__(self, params: Any, state: Any) -> dict[str, float]:
        """Return accuracies by name, from 0 to 1."""
        return knn(functools.partial(self._features, params, state), *self._pair, self._mesh)
