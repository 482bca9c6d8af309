"""Sweeps: what varies, as a file says it.

A sweep's file is Python with a function `sweep(budget)` that returns a `Sweep`; `configs/ablations/` has those of the
DoRA paper. `ssljax sweep FILE --workdir DIR` launches it, and `ssljax report DIR` makes the table.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ssljax.errors import InputError


class Variant(NamedTuple):
    """One row of the table.

    Attributes:
        name: Its name, also that of its folder.
        overrides: Values by dotted key of the config, such as {"objective.objects": 3}; a function stands for what it
            returns of the value that was there.
        config: Another config than the sweep's, FILE[:ARG].
    """

    name: str
    overrides: Mapping[str, Any] = {}
    config: str = ""


class Sweep(NamedTuple):
    """A question: variants of a config, each trained with several seeds and judged alike.

    Attributes:
        config: What varies, FILE[:ARG].
        variants: The first is the one that the others are compared with.
        overrides: Values by dotted key that all variants have, unless they say otherwise.
        seeds: Of the runs of each variant.
        metrics: What the table shows, of `config.evaluate.protocols` (such as "knn_20") or of what training logs.
        varies: The dotted key on the horizontal axis of plots; "" where variants have but names.
    """

    config: str
    variants: Sequence[Variant]
    overrides: Mapping[str, Any] = {}
    seeds: Sequence[int] = (0, 1, 2)
    metrics: Sequence[str] = ()
    varies: str = ""


def grid(**values: Sequence[Any]) -> list[Variant]:
    """Return a variant for each combination of values by dotted key, named by the keys' last parts and the values.

    Keys have dots: grid(**{"objective.objects": (3, 1, 2), "objective.sinkhorn": (True, False)}).

    Raises:
        InputError: What is given for a key is no list of values.
    """
    for key, several in values.items():
        if isinstance(several, str | Mapping) or not isinstance(several, Iterable):
            raise InputError(f"grid has {several!r} for {key}; give a tuple of values, such as ({several!r},).")
    return [
        Variant(",".join(f"{key.rpartition('.')[2]}={value}" for key, value in given.items()), given)
        for given in (dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values()))
    ]
