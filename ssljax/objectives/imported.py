"""No objective: a pretrained network that was read from files, which evaluations and exports take as a run's."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from ssljax.errors import InputError
from ssljax.models.pure import Params, Pure, combine, separate
from ssljax.objectives.base import Encoder, LossOutput, PyTree
from ssljax.ops import keys as rng
from ssljax.ops.arrays import Array


@dataclasses.dataclass(frozen=True)
class Imported:
    """Holds an encoder, and what stood on it in pretraining; trains nothing.

    Attributes:
        encoder: A ViT or a ResNet.
        origin: The file that it was read from.
        source: What is known of its pretraining, as JSON.
        image_size: Side in pixels of the images that it was trained on; None where that is not known.
        averaged: Whether the encoder is the moving average of what was trained.
        twin: Roles of which there is another copy: the student's where `averaged`, else the moving average's.
        head: A DINOHead, or None.
        patch_head: A DINOHead, or None.
        decoder: An MAEDecoder, or None.
        projector: A BatchNormMLP, or None.
        predictor: A BatchNormMLP, or None.
    """

    encoder: Pure
    origin: str = ""
    source: str = "{}"
    image_size: int | None = None
    averaged: bool = False
    twin: Sequence[str] = ()
    head: Pure | None = None
    patch_head: Pure | None = None
    decoder: Pure | None = None
    projector: Pure | None = None
    predictor: Pure | None = None
    accumulates_exactly: bool = dataclasses.field(default=True, init=False)

    @property
    def models(self) -> dict[str, Pure]:
        """The models by role."""
        roles = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {role: model for role, model in roles.items() if isinstance(model, Pure)}

    @property
    def card(self) -> dict[str, Any]:
        """What is known of the pretraining."""
        return json.loads(self.source)

    def batch_spec(self, batch_size: int) -> PyTree:
        """Raise InputError: there is nothing to train."""
        raise InputError(
            f"This run holds weights from {self.origin} and no objective; train another that starts from them: "
            "--config.init_from=RUN."
        )

    def init(self, key: jax.Array) -> tuple[Params, PyTree]:
        """See `Objective.init`."""
        params = {role: model.init(rng.named(key, role)) for role, model in self.models.items()}
        statistics = self.encoder.init_statistics()
        if not self.twin:
            return params, {"statistics": statistics}
        twin = {role: self.models[role].init(rng.named(key, role)) for role in self.twin}
        return params, {"statistics": statistics, "twin": twin, "twin_statistics": statistics}

    def loss(self, params: Params, state: PyTree, batch: PyTree, key: jax.Array, step: Array) -> LossOutput:
        """Raise InputError: there is nothing to train."""
        raise InputError(f"This run holds weights from {self.origin} and no objective.")

    def after_update(self, params: Params, state: PyTree, statistics: PyTree, step: Array) -> PyTree:
        """See `Objective.after_update`."""
        return state

    def encoders(self, params: Params, state: PyTree) -> dict[str, Encoder]:
        """See `Objective.encoders`: the one to evaluate, and both where there are two."""
        image = self._encoder(params, state["statistics"])
        if not self.twin:
            return {"image": image}
        names = ("teacher", "student") if self.averaged else ("student", "teacher")
        twin = self._encoder(state["twin"], state["twin_statistics"])
        return {"image": image, names[0]: image, names[1]: twin}

    def divide(self, params: Mapping[str, Params], twin: Mapping[str, Params]) -> tuple[Params, PyTree]:
        """Return a network's parameters as `init` has them, the encoders' statistics apart."""
        own, statistics = separate(self.encoder, params["encoder"])
        state = {"statistics": statistics}
        if twin:
            other, twin_statistics = separate(self.encoder, twin["encoder"])
            state |= {"twin": {**twin, "encoder": other}, "twin_statistics": twin_statistics}
        return {**params, "encoder": own}, state

    def _encoder(self, params: Params, statistics: PyTree) -> Encoder:
        heads = {role: (model, params[role]) for role, model in self.models.items() if role in params}
        heads.pop("encoder")
        return Encoder(self.encoder, combine(params["encoder"], statistics), heads)
