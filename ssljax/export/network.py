"""What every format is written from and read into: a pretrained network in our own terms."""

from __future__ import annotations

from typing import Any, NamedTuple

from ssljax.models.pure import Params


class Network(NamedTuple):
    """A pretrained network: the arguments that make its parts, and their parameters.

    Attributes:
        arguments: By role ("encoder", "head", "patch_head", "decoder", "projector", "predictor") those of the part's
            constructor, as a config's `models` section has them: JSON values, `name` among them.
        params: By role nested dicts of float32 NumPy arrays; batch norms' statistics are among them.
        twin: The other copy, where a training checkpoint holds a student and its moving average; by role.
        averaged: Whether `params` are the moving average, and `twin`, if any, what was trained.
        notes: What reading left out, or assumed because the file does not say it: a sentence each.
        source: What a model card says of them: objective, config, data, metrics, licence.
    """

    arguments: dict[str, dict[str, Any]]
    params: dict[str, Params]
    twin: dict[str, Params] = {}
    averaged: bool = False
    notes: tuple[str, ...] = ()
    source: dict[str, Any] = {}
