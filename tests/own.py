"""An objective of a user's own package, named by its import path in own_config.py."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ssljax.models.pure import Params, Pure
from ssljax.objectives.base import Encoder, LossOutput


@dataclasses.dataclass(frozen=True)
class MeanColour:
    """Predict the mean colour of a clip's first frame from its class token."""

    encoder: Pure
    frames: int
    size: int
    accumulates_exactly: bool = True

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {
            "frames": jax.ShapeDtypeStruct((batch_size, self.frames, self.size, self.size, 3), jnp.uint8),
            "position": jax.ShapeDtypeStruct((batch_size,), jnp.uint32),
        }

    def init(self, key: jax.Array) -> tuple[Params, Any]:
        width = self.encoder.abstract.width
        return {"encoder": self.encoder.init(key), "head": {"kernel": jnp.zeros((width, 3))}}, {}

    def loss(self, params: Params, state: Any, batch: Any, key: jax.Array, step: jax.Array) -> LossOutput:
        images = batch["frames"][:, 0] / 255.0
        predicted = self.encoder(params["encoder"], images).cls @ params["head"]["kernel"]
        error = jnp.mean((predicted - images.mean((1, 2))) ** 2)
        return LossOutput(error, {}, {})

    def after_update(self, params: Params, state: Any, statistics: Any, step: jax.Array) -> Any:
        return state

    def encoders(self, params: Params, state: Any) -> dict[str, Encoder]:
        return {"image": Encoder(self.encoder, params["encoder"])}
