"""The masked autoencoder's decoder, and how its networks start (He et al. 2022, arXiv 2111.06377)."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util
from jaxtyping import Array, Float, Int

from ssljax.errors import InputError
from ssljax.mesh import shard_batch
from ssljax.models.attention import implementation_of
from ssljax.models.blocks import LayerNorm
from ssljax.models.products import Linear
from ssljax.models.pure import Params
from ssljax.models.stack import REMAT, run_blocks, stacked_blocks
from ssljax.ops import arrays
from ssljax.ops import keys as rng
from ssljax.ops.positions import sincos_positions, sincos_times


class MAEDecoder(nnx.Module):
    """A light transformer from the visible patches of an image, or of a window of frames, to the pixels of all.

    Every frame's CLS token and visible patches come in; the hidden patches are one learned token; positions are fixed
    sines and cosines, zero for CLS. The frames of a window are decoded together, each token attending to those of all
    frames, and told apart by sines and cosines of their number, which single images do without.

    Args:
        width: Of the encoder's tokens.
        patch_size: Side in pixels of the patches that come out, the encoder's.
        hidden: Width of the decoder's tokens.
        depth: Number of blocks.
        heads: Number of attention heads.
        mlp_ratio: Hidden width of the MLP over `hidden`.
        norm_eps: Of the layer norms.
        dtype: Of the computation, "float32" or "bfloat16"; the pixels are float32.
        remat: See `ViT`.
        attention: See `ViT`.
        rngs: For the initial weights.

    Raises:
        InputError: Sizes that don't divide, or an unknown name.
    """

    def __init__(
        self,
        *,
        width: int,
        patch_size: int,
        hidden: int = 512,
        depth: int = 8,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        norm_eps: float = 1e-6,
        dtype: str = "float32",
        remat: str = "none",
        attention: str = "auto",
        rngs: nnx.Rngs,
    ) -> None:
        if depth < 1:
            raise InputError(f"depth is {depth}: a decoder needs at least one block")
        if hidden < 1:
            raise InputError(f"hidden is {hidden}: a decoder needs at least one channel")
        if dtype not in ("float32", "bfloat16") or remat not in REMAT:
            raise InputError(f"a decoder's dtype is float32 or bfloat16, not {dtype!r}; its remat one of {list(REMAT)}")
        sincos_positions(hidden, (1, 1))  # refuses a width that it cannot split
        self.width, self.patch_size, self.hidden, self.depth = width, patch_size, hidden, depth
        self.mlp_ratio, self.dtype, self.remat = mlp_ratio, dtype, remat
        self.attention = implementation_of(attention, dtype, hidden // max(heads, 1))
        self.embed = Linear(width, hidden, dtype=jnp.dtype(dtype), rngs=rngs)
        self.mask = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (hidden,)))
        self.blocks = stacked_blocks(
            depth,
            width=hidden,
            heads=heads,
            mlp_ratio=mlp_ratio,
            mlp="gelu",
            layer_scale=None,
            norm_eps=norm_eps,
            dtype=dtype,
            attention=attention,
            rngs=rngs,
        )
        self.norm = LayerNorm(hidden, norm_eps, dtype, rngs)
        self.pixels = Linear(hidden, 3 * patch_size**2, dtype=jnp.dtype(dtype), rngs=rngs)

    @jax.named_scope("decoder")
    def __call__(
        self,
        tokens: Float[arrays.Array, "b t m d"],
        order: Int[arrays.Array, "b n"],
        grid: tuple[int, int],
    ) -> Float[Array, "b t n p"]:
        """Return the predicted values of every patch of every frame, by (row, column, channel), float32.

        Args:
            tokens: The encoder's: each frame's CLS, then its m - 1 visible patches by rising noise.
            order: Each patch's place by noise, see `Masking`: the same in all frames of a window.
            grid: Rows and columns of the n patches.
        """
        b, t = tokens.shape[:2]
        x = self.embed(jnp.asarray(tokens, self.dtype))
        visible = x.shape[2] - 1
        patches = jnp.take_along_axis(x[:, :, 1:], jnp.minimum(order, visible - 1)[:, None, :, None], axis=2)
        hidden = jnp.asarray(order) >= visible
        patches = jnp.where(hidden[:, None, :, None], self.mask[None, None, None], patches)
        x = jnp.concatenate([x[:, :, :1].astype(jnp.float32), patches], axis=2) + self._positions(t, grid)[None]
        x = x.astype(self.dtype)
        x = shard_batch(x.reshape(b, -1, self.hidden))
        _, x = run_blocks(self.blocks, x, depth=self.depth, attention=self.attention, remat=self.remat)
        x = self.norm(x).reshape(b, t, -1, self.hidden)
        return self.pixels(x[:, :, 1:]).astype(jnp.float32)

    def flops(self, patches: int, visible: int, frames: int = 1) -> int:
        """Return the floating-point operations of one sample's forward pass, as `ViT.flops` counts them.

        The prediction of the visible patches, which no loss asks for, is among them.
        """
        n, d = frames * (1 + patches), self.hidden
        block = n * (4 * d * d + 2 * d * self.blocks.mlp.hidden + 2 * n * d)
        ends = (1 + visible) * self.width * d + patches * d * 3 * self.patch_size**2
        return 2 * (self.depth * block + frames * ends)

    def _positions(self, frames: int, grid: tuple[int, int]) -> Float[Array, "{frames} m d"]:
        space = jnp.concatenate([jnp.zeros((1, self.hidden)), sincos_positions(self.hidden, grid)])
        if frames == 1:
            return space[None]
        return space[None] + sincos_times(self.hidden, frames)[:, None]


def xavier_uniform(params: Params, key: jax.Array) -> Params:
    """Return parameters whose kernels are drawn anew: uniform within sqrt(6 / (inputs + outputs)), float32.

    The start that MAE gives every linear layer and the patch embedding (Glorot and Bengio 2010; section A.1 of the
    paper), the rest as it is. Queries, keys and values are one kernel, as in the released code.

    Args:
        params: Of any model; the layers of stacked blocks are drawn each by itself.
        key: Each kernel's draw derives from it and the kernel's name.
    """

    def draw(path: str, leaf: Any) -> Any:
        if path.rpartition("/")[2] != "kernel":
            return leaf
        bound = math.sqrt(6.0 / (leaf.shape[-2] + leaf.shape[-1]))
        return jax.random.uniform(rng.named(key, path), leaf.shape, minval=-bound, maxval=bound)

    flat = traverse_util.flatten_dict(params, sep="/")
    return traverse_util.unflatten_dict({path: draw(path, leaf) for path, leaf in flat.items()}, sep="/")
