"""The two sets of labelled images that a protocol learns from and is measured on."""

from __future__ import annotations

from typing import Any

from ssljax.data.images import Labelled, Ordered
from ssljax.errors import InputError

_NAMED = 5  # classes, in a message


def labelled_pair(*, train: str, test: str, size: int, batch_size: int = 256) -> tuple[Labelled, Labelled]:
    """Return two prepared sets of labelled images with the same classes.

    Raises:
        InputError: One cannot be used, or their classes differ.
    """
    for name, place in (("train", train), ("test", test)):
        if not place:
            raise InputError(f"No {name} set of labelled images is named; give prepared folders as train and test.")
    first, second = (Labelled(place, size=size, batch_size=batch_size) for place in (train, test))
    if first.classes != second.classes:
        one, other = _only(train, first, second), _only(test, second, first)
        difference = ", ".join(filter(None, (one, other))) or "they have the same ones in another order"
        raise InputError(f"{train} and {test} differ in their classes: {difference}; give two parts of one data set.")
    return first, second


def _only(place: str, labelled: Labelled, other: Labelled) -> str:
    """Return which classes the other set lacks, the first of them by name; nothing where it has all."""
    names = sorted(set(labelled.classes) - set(other.classes))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"only {place} has {', '.join(names[:_NAMED])}{more}" if names else ""


def described(**sets: Labelled | Ordered) -> dict[str, Any]:
    """Return what a record of results says of its data."""
    return {
        name: {"data": images.source.where, "images": len(images), "checksum": images.checksum}
        for name, images in sets.items()
    }
