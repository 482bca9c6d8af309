"""SimCLR: two views of an image find each other among all others (Chen et al., ICML 2020, arXiv 2002.05709)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float, Key, UInt8

from ssljax.errors import InputError
from ssljax.mesh import shard_batch
from ssljax.models.pure import Params, Pure, combine
from ssljax.objectives.base import Encoder, LossOutput, PyTree, check_norm_momentum, exponential_moving_average
from ssljax.ops import keys as rng
from ssljax.ops.arrays import Array
from ssljax.ops.losses import nt_xent, retrieval_accuracy, unit


def image_batch(batch_size: int, size: int) -> PyTree:
    """Return the contract with the loader of an objective on images: see `Objective.batch_spec`."""
    return {
        "image": jax.ShapeDtypeStruct((batch_size, size, size, 3), jnp.uint8),
        "position": jax.ShapeDtypeStruct((batch_size,), jnp.uint32),
    }


def two_views(
    views: Callable[..., tuple[Array, Array]], images: UInt8[Array, "b s s 3"], keys: Key[Array, " b"]
) -> Float[Array, "b 2 g g 3"]:
    """Return the two global views of every image.

    Raises:
        InputError: There are local views too, which a pair has no place for.
    """
    large, small = jax.vmap(views)(images, keys)
    if large.shape[1] != 2 or small.shape[1]:
        raise InputError(
            f"The views give {large.shape[1]} global and {small.shape[1]} local crops, but this objective compares 2: "
            "set views.locals=0."
        )
    return shard_batch(large)


def pair_metrics(one: Float[Array, "n d"], other: Float[Array, "n d"], *, block_size: int | None) -> dict[str, Array]:
    """Return what shows whether embeddings still tell samples apart; row i of both is of one sample.

    `accuracy`, the share of views nearer to their other view than to any other sample's; `alignment`, the mean squared
    distance of a pair on the unit sphere (Wang and Isola 2020; 0 is best, or collapse); `embedding_std`, of the unit
    vectors over the batch, times sqrt(d): 1 is spread evenly, 0 collapsed; `embedding_norm`, before normalisation.
    """
    a, b = unit(one), unit(other)
    metrics = {
        "accuracy": retrieval_accuracy(a, b, block_size=block_size),
        "alignment": jnp.mean(jnp.sum(jnp.square(a - b), axis=-1)),
        "embedding_std": jnp.mean(jnp.std(a, axis=0)) * a.shape[-1] ** 0.5,
        "embedding_norm": jnp.mean(jnp.linalg.norm(one, axis=-1)),
    }
    return jax.lax.stop_gradient(metrics)


@dataclasses.dataclass(frozen=True)
class SimCLR:
    """The normalised temperature-scaled cross-entropy of the projections of two views, over the mesh's whole batch.

    Attributes:
        encoder: Any whose output has `features` and whose call takes `keys` and `features_only`.
        projector: A BatchNormMLP.
        views: `views(image uint8 [s, s, 3], key) -> (globals [2, g, g, 3], locals [0, ...])`, normalised.
        size: Side of the uint8 images in a batch, pixels.
        temperature: Of the loss.
        block_size: See `nt_xent`.
        norm_momentum: Of the running statistics of the encoder's batch norms, which evaluations use.
    """

    encoder: Pure
    projector: Pure
    views: Callable[..., tuple[Array, Array]]
    size: int
    temperature: float
    block_size: int | None = None
    norm_momentum: float = 0.9
    accumulates_exactly: bool = dataclasses.field(default=False, init=False)

    def __post_init__(self) -> None:
        """Raise InputError where a value is out of its range; the loss checks its own."""
        check_norm_momentum(self.norm_momentum)

    def batch_spec(self, batch_size: int) -> PyTree:
        """See `Objective.batch_spec`."""
        return image_batch(batch_size, self.size)

    def init(self, key: jax.Array) -> tuple[Params, PyTree]:
        """See `Objective.init`."""
        params = {
            "encoder": self.encoder.init(rng.named(key, "encoder")),
            "projector": self.projector.init(rng.named(key, "projector")),
        }
        return params, {"statistics": self.encoder.init_statistics()}

    def loss(self, params: Params, state: PyTree, batch: PyTree, key: jax.Array, step: Array) -> LossOutput:
        """See `Objective.loss`; equation 1 and algorithm 1 of the paper."""
        views = two_views(self.views, batch["image"], rng.per_sample(rng.named(key, "views"), batch["position"]))
        drop_keys = jax.vmap(jax.random.split)(rng.per_sample(rng.named(key, "drop_path"), batch["position"]))
        # A sample's views stay side by side, so that the sharded axis is the major one.
        images = shard_batch(views.reshape(-1, *views.shape[2:]))
        output, statistics = self.encoder.train(
            params["encoder"], images, keys=drop_keys.reshape(-1), features_only=True
        )
        z, _ = self.projector.train(params["projector"], output.features)
        z = shard_batch(z.reshape(-1, 2, z.shape[-1]))
        loss = nt_xent(z[:, 0], z[:, 1], temperature=self.temperature, block_size=self.block_size)
        return LossOutput(loss, statistics, pair_metrics(z[:, 0], z[:, 1], block_size=self.block_size))

    def after_update(self, params: Params, state: PyTree, statistics: PyTree, step: Array) -> PyTree:
        """See `Objective.after_update`: the running statistics."""
        return {"statistics": exponential_moving_average(state["statistics"], statistics, self.norm_momentum)}

    def encoders(self, params: Params, state: PyTree) -> dict[str, Encoder]:
        """See `Objective.encoders`: without the projector, as the paper evaluates."""
        heads = {"projector": (self.projector, params["projector"])}
        return {"image": Encoder(self.encoder, combine(params["encoder"], state["statistics"]), heads)}
