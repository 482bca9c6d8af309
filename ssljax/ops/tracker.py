"""DoRA's tracker: the objects of a clip's first frame, found by attention heads, followed through its frames.

Venkataramanan et al., ICLR 2024 (arXiv 2310.08584), section 3.
"""

from __future__ import annotations

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from ssljax.errors import InputError
from ssljax.ops.arrays import Array
from ssljax.ops.sinkhorn import sinkhorn_knopp

Heads = Int[Array, " k"] | Int[Array, "b k"]
"""The heads that objects start from: one draw for all clips, or one for each."""


def object_prototypes(
    cls_attention: Float[Array, "b h n"], queries: Float[Array, "b h n dh"], heads: Heads
) -> Float[Array, "b k d"]:
    """Return P = A[I] Q: for each head in I, the mean query under its CLS attention (equation 3)."""
    return jnp.einsum("bkn,bnd->bkd", of_heads(cls_attention, heads), _concatenate_heads(queries))


@jax.named_scope("discover")
def discover(
    cls_attention: Float[Array, "b h n"],
    queries: Float[Array, "b h n dh"],
    patches: Float[Array, "b n d"],
    heads: Heads,
    *,
    epsilon: float,
    iterations: int,
) -> Float[Array, "b k d"]:
    """Return the refined prototypes of k objects in a clip's first frame.

        P = A[I] Q;  M* = sinkhorn(Zn P^T);  P' = M*^T Zn         (equations 3 to 5)

    Args:
        cls_attention: A, the teacher's last CLS attention over the patches, by head.
        queries: Q, the same block's queries of the patches.
        patches: Z, the teacher's patch tokens after the final norm; L2-normalised here to Zn.
        heads: I, the k heads to start from.
        epsilon: Of `sinkhorn_knopp`.
        iterations: Of `sinkhorn_knopp`.
    """
    normalised = jnp.asarray(patches, jnp.float32)
    normalised /= jnp.linalg.norm(normalised, axis=-1, keepdims=True)
    scores = jnp.einsum("bnd,bkd->bnk", normalised, object_prototypes(cls_attention, queries, heads))
    assignment = sinkhorn_knopp(scores, epsilon=epsilon, iterations=iterations)
    return jnp.einsum("bnk,bnd->bkd", assignment, normalised)


@jax.named_scope("track")
def track(prototypes: Float[Array, "b k d"], keys: Float[Array, "b t h n dh"]) -> Float[Array, "b t k n"]:
    """Return each object's attention over the patches of every frame: softmax(P' K^T / sqrt(d)) (equation 6)."""
    joined = _concatenate_heads(keys)
    logits = jnp.einsum("bkd,btnd->btkn", prototypes, joined, preferred_element_type=jnp.float32)
    return jax.nn.softmax(logits * joined.shape[-1] ** -0.5, axis=-1)


def object_masks(maps: Float[Array, "b t k n"], *, threshold: str = "frame") -> Bool[Array, "b t k n"]:
    """Return which patches belong to each object: those where its L2-normalised map is above the mean.

    Args:
        maps: Attention of each object over the patches.
        threshold: "frame" takes the mean over the patches of the frame; "batch", as the released code does, over the
            batch too, so that a clip's mask depends on the clips beside it.

    Raises:
        InputError: The threshold is neither.
    """
    if threshold not in ("frame", "batch"):
        raise InputError(f'The mask threshold is {threshold!r}; give "frame" or "batch".')
    normalised = maps / jnp.linalg.norm(maps, axis=-1, keepdims=True)
    mean = jnp.mean(normalised, axis=-1 if threshold == "frame" else (0, 3), keepdims=True)
    return normalised > mean


def highest(maps: Float[Array, "*b n"], count: int) -> Bool[Array, "*b n"]:
    """Return which `count` entries of each map are its highest; of equal ones the first."""
    ranks = jnp.argsort(jnp.argsort(-maps, axis=-1, stable=True), axis=-1)
    return ranks < count


def _concatenate_heads(x: Float[Array, "*b h n dh"]) -> Float[Array, "*b n d"]:
    return einops.rearrange(x, "... h n dh -> ... n (h dh)")


def of_heads(attention: Float[Array, "b h n"], heads: Heads) -> Float[Array, "b k n"]:
    """Return the attention of the heads that objects start from."""
    return attention[:, heads] if heads.ndim == 1 else jnp.take_along_axis(attention, heads[:, :, None], axis=1)
