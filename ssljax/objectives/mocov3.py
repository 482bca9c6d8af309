"""MoCo v3: queries find the momentum encoder's keys (Chen, Xie and He, ICCV 2021, arXiv 2104.02057)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ssljax.mesh import shard_batch
from ssljax.models.pure import Params, Pure, combine
from ssljax.objectives.base import (
    Encoder,
    LossOutput,
    PyTree,
    Schedule,
    check_momentum,
    check_norm_momentum,
    exponential_moving_average,
)
from ssljax.objectives.simclr import image_batch, pair_metrics, two_views
from ssljax.ops import keys as rng
from ssljax.ops.arrays import Array
from ssljax.ops.losses import info_nce


@dataclasses.dataclass(frozen=True)
class MoCoV3:
    """The query of each view finds the key of the other view of its sample; keys come from a moving average.

    Each view is a batch by itself for the batch norms, as in the released code.

    Attributes:
        encoder: Any whose output has `features` and whose call takes `keys` and `features_only`.
        projector: A BatchNormMLP.
        predictor: A BatchNormMLP on the projector's output.
        views: `views(image uint8 [s, s, 3], key) -> (globals [2, g, g, 3], locals [0, ...])`, normalised.
        size: Side of the uint8 images in a batch, pixels.
        temperature: Of the loss.
        momentum: Of the moving average, as a function of the step.
        block_size: See `info_nce`.
        norm_momentum: Of the running statistics of the encoder's batch norms, which evaluations use.
    """

    encoder: Pure
    projector: Pure
    predictor: Pure
    views: Callable[..., tuple[Array, Array]]
    size: int
    temperature: float
    momentum: Schedule
    block_size: int | None = None
    norm_momentum: float = 0.9
    accumulates_exactly: bool = dataclasses.field(default=False, init=False)

    def __post_init__(self) -> None:
        """Raise InputError where a value is out of its range; the loss checks its own."""
        check_norm_momentum(self.norm_momentum)
        check_momentum(momentum=self.momentum)

    def batch_spec(self, batch_size: int) -> PyTree:
        """See `Objective.batch_spec`."""
        return image_batch(batch_size, self.size)

    def init(self, key: jax.Array) -> tuple[Params, PyTree]:
        """See `Objective.init`."""
        models = {"encoder": self.encoder, "projector": self.projector, "predictor": self.predictor}
        params = {name: model.init(rng.named(key, name)) for name, model in models.items()}
        teacher = jax.tree.map(jnp.copy, _averaged(params))
        return params, {"teacher": teacher, "statistics": self.encoder.init_statistics()}

    def loss(self, params: Params, state: PyTree, batch: PyTree, key: jax.Array, step: Array) -> LossOutput:
        """See `Objective.loss`; algorithm 1 of the paper."""
        views = two_views(self.views, batch["image"], rng.per_sample(rng.named(key, "views"), batch["position"]))
        drop_keys = jax.vmap(jax.random.split)(rng.per_sample(rng.named(key, "drop_path"), batch["position"]))
        queries, keys, seen = [], [], []
        for i in range(2):
            images = shard_batch(views[:, i])
            projection, _ = self._project(state["teacher"], images)
            keys.append(jax.lax.stop_gradient(projection))
            projection, statistics = self._project(params, images, keys=drop_keys[:, i])
            queries.append(self.predictor.train(params["predictor"], projection)[0])
            seen.append(statistics)
        options: dict[str, Any] = dict(temperature=self.temperature, block_size=self.block_size)
        loss = info_nce(queries[0], keys[1], **options) + info_nce(queries[1], keys[0], **options)
        statistics = jax.tree.map(lambda a, b: (a + b) / 2, *seen)
        return LossOutput(loss, statistics, pair_metrics(queries[0], keys[1], block_size=self.block_size))

    def after_update(self, params: Params, state: PyTree, statistics: PyTree, step: Array) -> PyTree:
        """See `Objective.after_update`: the moving average and the running statistics."""
        return {
            "teacher": exponential_moving_average(state["teacher"], _averaged(params), self.momentum(step)),
            "statistics": exponential_moving_average(state["statistics"], statistics, self.norm_momentum),
        }

    def encoders(self, params: Params, state: PyTree) -> dict[str, Encoder]:
        """See `Objective.encoders`: the queries' encoder, as the released code evaluates, and its moving average."""
        heads = {name: (getattr(self, name), params[name]) for name in ("projector", "predictor")}
        image = Encoder(self.encoder, combine(params["encoder"], state["statistics"]), heads)
        teacher = state["teacher"]
        averaged = Encoder(self.encoder, teacher["encoder"], {"projector": (self.projector, teacher["projector"])})
        return {"image": image, "student": image, "teacher": averaged}

    def _project(self, params: Params, images: Array, **keywords: Any) -> tuple[Array, PyTree]:
        """Return the projections and the statistics of the encoder's batch norms."""
        output, statistics = self.encoder.train(params["encoder"], images, features_only=True, **keywords)
        return self.projector.train(params["projector"], output.features)[0], statistics


def _averaged(params: Params) -> Params:
    """Return what the moving average is of: all but the predictor."""
    return {name: params[name] for name in ("encoder", "projector")}
