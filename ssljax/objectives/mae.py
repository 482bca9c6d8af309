"""Masked autoencoders of images (He et al., CVPR 2022, arXiv 2111.06377) and of windows of frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from ssljax.errors import InputError
from ssljax.mesh import shard_batch
from ssljax.models.mae import xavier_uniform
from ssljax.models.pure import Params, Pure
from ssljax.objectives.base import Encoder, LossOutput, PyTree
from ssljax.ops import keys as rng
from ssljax.ops.arrays import Array
from ssljax.ops.masking import mask_by_noise, patch_statistics, patchify, visible_patches


class Reconstruction(NamedTuple):
    """What the decoder makes of what the encoder saw.

    Attributes:
        predicted: [b, t, n, p], the values of every patch, float32.
        cls: [b, t, d], the encoder's CLS tokens.
        hidden: [b, n], the patches that it did not see.
    """

    predicted: Float[Array, "b t n p"]
    cls: Float[Array, "b t d"]
    hidden: Bool[Array, "b n"]


@dataclasses.dataclass(frozen=True)
class MAE:
    """The encoder sees a few patches of an image; a light decoder predicts the pixels of the others.

    With `frames`, samples are windows, masked in tubes as in VideoMAE (Tong et al., NeurIPS 2022, arXiv 2203.12602):
    the same patches are hidden in all frames, so that nothing hidden can be copied from the frame before. The encoder
    sees each frame alone and so remains an encoder of images, which every export and evaluation takes; the decoder
    attends to all frames at once, and what it needs from the others it must find in the encoder's features. (VideoMAE's
    encoder attends across frames as well, and cuts windows into cubes two frames long.)

    The networks start as `xavier_uniform` says; positions are the encoder's own (the paper's are fixed:
    positions="sincos").

    Attributes:
        encoder: A ViT.
        decoder: An MAEDecoder of the encoder's patch size.
        views: `views(uint8 [s, s, 3] or [t, s, s, 3], key) -> [(t,) g, g, 3]`, normalised.
        size: Side of the uint8 images in a batch, pixels.
        frames: t, frames in a window; None is images.
        mask_ratio: Share of the patches that is hidden.
        norm_pix_loss: Whether each patch's pixels are predicted less their mean, over their standard deviation.
    """

    encoder: Pure
    decoder: Pure
    views: Callable[..., Array]
    size: int
    frames: int | None = None
    mask_ratio: float = 0.75
    norm_pix_loss: bool = True
    accumulates_exactly: bool = dataclasses.field(default=True, init=False)

    def __post_init__(self) -> None:
        """Check the values that a trace would not, or only later.

        Raises:
            InputError: No frames, patches of two sizes, or nothing left to see or to predict.
        """
        encoder, decoder = self.encoder.abstract, self.decoder.abstract
        if self.frames is not None and self.frames < 1:
            raise InputError(f"frames is {self.frames}; give the frames of a window, or None for images.")
        if encoder.patch_size != decoder.patch_size:
            raise InputError(
                f"The encoder's patches are {encoder.patch_size} pixels wide and the decoder's {decoder.patch_size}; "
                "give both the same patch_size."
            )
        rows, columns = encoder.grid(encoder.image_size, encoder.image_size)
        visible_patches(rows * columns, self.mask_ratio)

    def batch_spec(self, batch_size: int) -> PyTree:
        """See `Objective.batch_spec`: {"image", "position"}, or {"frames", "position"}."""
        name, frames = ("image", ()) if self.frames is None else ("frames", (self.frames,))
        return {
            name: jax.ShapeDtypeStruct((batch_size, *frames, self.size, self.size, 3), jnp.uint8),
            "position": jax.ShapeDtypeStruct((batch_size,), jnp.uint32),
        }

    def init(self, key: jax.Array) -> tuple[Params, PyTree]:
        """See `Objective.init`."""
        params = {"encoder": self.encoder.init(rng.named(key, "encoder"))}
        params["decoder"] = self.decoder.init(rng.named(key, "decoder"))
        return xavier_uniform(params, rng.named(key, "xavier")), {}

    def loss(self, params: Params, state: PyTree, batch: PyTree, key: jax.Array, step: Array) -> LossOutput:
        """See `Objective.loss`: the mean squared error over the hidden patches."""
        images, noise = self.draw(batch, key)
        drop_keys = rng.per_sample(rng.named(key, "drop_path"), batch["position"])
        out = self.reconstruct(params, images, noise, drop_keys)
        targets = self.targets(images)
        return LossOutput(masked_error(out.predicted, targets, out.hidden), {}, _metrics(out, targets))

    def after_update(self, params: Params, state: PyTree, statistics: PyTree, step: Array) -> PyTree:
        """See `Objective.after_update`: there is no state."""
        return state

    def encoders(self, params: Params, state: PyTree) -> dict[str, Encoder]:
        """See `Objective.encoders`: the encoder, which sees whole images when it is called on them."""
        return {"image": Encoder(self.encoder, params["encoder"], {"decoder": (self.decoder, params["decoder"])})}

    def draw(self, batch: PyTree, key: jax.Array) -> tuple[Float[Array, "b t g g 3"], Float[Array, "b n"]]:
        """Return a batch's views, images being windows of one frame, and the noise that masks them.

        Both depend on the key, which is the step's, and on each sample's position alone.
        """
        samples = batch["image" if self.frames is None else "frames"]
        keys = rng.per_sample(rng.named(key, "views"), batch["position"])
        images = jax.vmap(self.views)(samples, keys)
        images = images[:, None] if self.frames is None else images
        rows, columns = self.encoder.abstract.grid(*images.shape[2:4])
        keys = rng.per_sample(rng.named(key, "masks"), batch["position"])
        return images, jax.vmap(lambda k: jax.random.uniform(k, (rows * columns,)))(keys)

    def reconstruct(
        self,
        params: Params,
        images: Float[Array, "b t g g 3"],
        noise: Float[Array, "b n"],
        drop_keys: jax.Array | None = None,
    ) -> Reconstruction:
        """Return the reconstruction of normalised images from the patches of least noise.

        Args:
            params: The objective's.
            images: As `draw` returns them.
            noise: As `draw` returns it; each sample's hides the same patches in all its frames.
            drop_keys: One key per sample for the encoder's drop path; None is without.
        """
        b, t = images.shape[:2]
        masking = mask_by_noise(noise, visible=visible_patches(noise.shape[1], self.mask_ratio))
        keep = shard_batch(jnp.repeat(masking.keep, t, axis=0))
        if drop_keys is not None:
            drop_keys = shard_batch(jax.vmap(lambda k: jax.random.split(k, t))(drop_keys).reshape(b * t))
        merged = shard_batch(images.reshape(b * t, *images.shape[2:]))
        seen = self.encoder(params["encoder"], merged, keep=keep, keys=drop_keys)
        tokens = jnp.concatenate([seen.cls[:, None], seen.patches], axis=1)
        tokens = shard_batch(tokens.reshape(b, t, *tokens.shape[1:]))
        grid = self.encoder.abstract.grid(*images.shape[2:4])
        predicted = self.decoder(params["decoder"], tokens, masking.order, grid)
        return Reconstruction(predicted, tokens[:, :, 0], masking.hidden)

    def targets(self, images: Float[Array, "b t g g 3"]) -> Float[Array, "b t n p"]:
        """Return the values that the decoder has to predict of normalised images."""
        patches = patchify(images, self.encoder.abstract.patch_size)
        if not self.norm_pix_loss:
            return patches
        mean, deviation = patch_statistics(patches)
        return (patches - mean) / deviation


def masked_error(
    predicted: Float[Array, "b t n p"], targets: Float[Array, "b t n p"], hidden: Bool[Array, "b n"]
) -> Float[Array, ""]:
    """Return the mean squared error over the values of the hidden patches, of which each sample has as many."""
    return _mean_where(jnp.square(predicted - targets), hidden)


def _mean_where(values: Float[Array, "b t n p"], patches: Bool[Array, "b n"]) -> Float[Array, ""]:
    weights = jnp.broadcast_to(patches[:, None, :], values.shape[:3]).astype(values.dtype)
    return jnp.sum(jnp.mean(values, axis=-1) * weights) / jnp.sum(weights)


def _metrics(out: Reconstruction, targets: Float[Array, "b t n p"]) -> dict[str, Array]:
    """Return what shows whether the decoder says more than the mean, and the encoder more than one thing.

    `explained` is the share of the hidden pixels' variance that is predicted (0: no better than their mean, 1: all);
    `target_variance` and `predicted_variance` are those pixels'; `visible_error` is the error on what was seen, which
    nothing trains; `cls_deviation` is the standard deviation of the CLS token over the batch: 0 is collapse.
    """

    def variance(values: Array) -> Array:
        mean = _mean_where(values, out.hidden)
        return _mean_where(jnp.square(values - mean), out.hidden)

    target_variance = variance(targets)
    metrics = {
        "explained": 1.0 - masked_error(out.predicted, targets, out.hidden) / target_variance,
        "target_variance": target_variance,
        "predicted_variance": variance(out.predicted),
        "visible_error": masked_error(out.predicted, targets, ~out.hidden),
        "cls_deviation": jnp.mean(jnp.std(out.cls.astype(jnp.float32), axis=0)),
    }
    return jax.lax.stop_gradient(metrics)
