"""The vision transformer (Dosovitskiy et al. 2021), its blocks stacked and scanned."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import einops
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from ssljax.errors import InputError
from ssljax.models.attention import Probe, implementation_of
from ssljax.models.blocks import Block, LayerNorm, PatchEmbedding, drop_path_factors
from ssljax.models.products import matmul
from ssljax.models.stack import REMAT, run_blocks, stacked_blocks
from ssljax.ops import arrays
from ssljax.ops.positions import resample_positions, sincos_positions

SIZES = {
    "ti": {"width": 192, "depth": 12, "heads": 3},
    "s": {"width": 384, "depth": 12, "heads": 6},
    "b": {"width": 768, "depth": 12, "heads": 12},
    "l": {"width": 1024, "depth": 24, "heads": 16},
    "h": {"width": 1280, "depth": 32, "heads": 16},
    "g": {"width": 1536, "depth": 40, "heads": 24},
}


class ViTOutput(NamedTuple):
    """What a ViT returns, in its dtype.

    Attributes:
        cls: [b, d], the CLS token after the final norm.
        patches: [b, n, d], the patch tokens after the final norm.
        layers: The asked blocks' outputs [b, 1 + registers + n, d], before any norm: CLS, registers, patches.
        probe: The asked block's attention; see `Probe`.
    """

    cls: Float[Array, "b d"]
    patches: Float[Array, "b n d"]
    layers: tuple[Array, ...]
    probe: Probe | None

    @property
    def features(self) -> Float[Array, "b d"]:
        """The image's representation, as every encoder's output has it: here the CLS token."""
        return self.cls


class ViT(nnx.Module):
    """A vision transformer with CLS token and optional registers (Darcet et al. 2024).

    Linear layers, CLS token and positions start normal with deviation 0.02 (registers: 1e-6), biases at zero, as in
    DINO and timm; the patch embedding as in `PatchEmbedding`.

    Args:
        image_size: Side in pixels of the square image whose grid the positions are for; images of other sizes get
            interpolated positions.
        patch_size: Side of a patch in pixels.
        width: Of the tokens.
        depth: Number of blocks.
        heads: Number of attention heads.
        mlp_ratio: Hidden width of the MLP over `width`.
        mlp: "gelu", or "swiglu" (with two thirds of the hidden width).
        registers: Number of register tokens, between CLS and patches.
        mask_token: Whether there is a learned token for patches that are masked, zero at the start.
        layer_scale: Initial LayerScale; None is without.
        drop_path: Rate of the last block; it grows linearly from 0 in the first.
        positions: "learned", or "sincos": MAE's fixed ones, zero for CLS.
        position_offset: See `resample_positions`.
        position_antialias: See `resample_positions`.
        norm_eps: Of the layer norms.
        dtype: Of the computation, "float32" or "bfloat16"; parameters, norm statistics and softmax are float32.
        remat: What the backward pass recomputes: "none"; "full", everything in a block; "dots", all but the outputs of
            linear layers.
        attention: "xla", "cudnn" (NVIDIA GPUs), "pallas" (TPUs), or "auto", which takes cuDNN's fused kernel where
            there is one; on TPUs it is "xla" until somebody has measured "pallas" on one.
        rngs: For the initial weights.

    Raises:
        InputError: Sizes that don't divide, or an unknown name.
    """

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        mlp: str = "gelu",
        registers: int = 0,
        mask_token: bool = False,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        positions: str = "learned",
        position_offset: float = 0.0,
        position_antialias: bool = False,
        norm_eps: float = 1e-6,
        dtype: str = "float32",
        remat: str = "none",
        attention: str = "auto",
        rngs: nnx.Rngs,
    ) -> None:
        _check(width, depth, registers, drop_path, positions, dtype, remat)
        self.image_size, self.patch_size = image_size, patch_size
        self.width, self.depth, self.heads, self.registers = width, depth, heads, registers
        self.mlp_ratio, self.mlp, self.layer_scale = mlp_ratio, mlp, layer_scale
        self.drop_path, self.norm_eps = drop_path, norm_eps
        self.dtype, self.remat = dtype, remat
        self.attention = implementation_of(attention, dtype, width // max(heads, 1))
        self.position_offset, self.position_antialias = position_offset, position_antialias
        rows, columns = self.grid(image_size, image_size)

        normal = nnx.initializers.normal(0.02)
        self.patch = PatchEmbedding(patch_size=patch_size, width=width, rngs=rngs)
        self.cls = nnx.Param(normal(rngs.params(), (width,)))
        self.learned = positions == "learned"
        if self.learned:
            self.position = nnx.Param(normal(rngs.params(), (1 + rows * columns, width)))
        else:
            sincos_positions(width, (rows, columns))  # refuses a width that it cannot split
        if registers:
            self.register = nnx.Param(nnx.initializers.normal(1e-6)(rngs.params(), (registers, width)))
        self.mask_token = mask_token
        if mask_token:
            self.mask = nnx.Param(jnp.zeros((width,)))
        self.blocks = stacked_blocks(
            depth,
            width=width,
            heads=heads,
            mlp_ratio=mlp_ratio,
            mlp=mlp,
            layer_scale=layer_scale,
            norm_eps=norm_eps,
            dtype=dtype,
            attention=attention,
            rngs=rngs,
        )
        self.norm = LayerNorm(width, norm_eps, dtype, rngs)

    def __call__(self, images: Float[arrays.Array, "b h w 3"], **keywords: Any) -> ViTOutput:
        """Return the encoding of normalised images of any size that patches divide; keywords as in `encode`."""
        return self.encode(self.project(images), self.grid(*images.shape[1:3]), **keywords)

    @jax.named_scope("patches")
    def project(self, images: Float[arrays.Array, "b h w 3"]) -> Float[Array, "b n d"]:
        """Return the patch embedding without its bias, so that a mask of patches can be applied to it exactly."""
        self.grid(*images.shape[1:3])
        p = self.patch_size
        patches = einops.rearrange(jnp.asarray(images, self.dtype), "b (h p) (w q) c -> b (h w) (p q c)", p=p, q=p)
        return matmul(patches, self.patch.kernel[...])

    def encode(
        self,
        projected: Float[Array, "b n d"],
        grid: tuple[int, int],
        *,
        keep: Int[Array, "b m"] | None = None,
        mask: Bool[Array, "b n"] | None = None,
        keys: Key[Array, " b"] | None = None,
        layers: Sequence[int] = (),
        probe: int | None = None,
        features_only: bool = False,
    ) -> ViTOutput:
        """Return the encoding of projected patches.

        Args:
            projected: As `project` returns them, perhaps masked.
            grid: Rows and columns of the patches.
            keep: Indices of the patches that are encoded, each with its own position; all by default.
            mask: Patches that the mask token stands for, at their positions; none by default.
            keys: One typed key per sequence for drop path, which depends on nothing else; None is evaluation, without.
            layers: Blocks whose outputs are returned; negative ones count from the end.
            probe: The block whose attention is returned.
            features_only: Whether CLS is all that is wanted: the last block then computes no other row, and `patches`
                is empty.

        Raises:
            InputError: If a block doesn't exist, or is asked for besides `features_only`, or patches are masked without
                a mask token.
        """
        if mask is not None and not self.mask_token:
            raise InputError("patches are masked, but the encoder has no token for them: set mask_token=True")
        if features_only and (layers or probe is not None):
            raise InputError("features_only returns no block: ask for blocks without it")
        tokens = self._embed(projected, grid, keep, mask)
        wanted = [self._block(index) + 1 for index in layers]  # the output of a block is the input of the next
        wanted += [] if probe is None else [self._block(probe)]
        drop = None if keys is None or not self.drop_path else drop_path_factors(keys, self.depth, self.drop_path)
        inputs, tokens = run_blocks(
            self.blocks,
            tokens,
            depth=self.depth,
            attention=self.attention,
            remat=self.remat,
            wanted=wanted,
            drop=drop,
            rows=1 if features_only else None,
        )
        prefix = 1 + self.registers
        seen = None if probe is None else self._layer(self._block(probe)).probe(inputs[-1], prefix=prefix)
        tokens = self.norm(tokens)
        return ViTOutput(tokens[:, 0], tokens[:, prefix:], tuple(inputs[: len(layers)]), seen)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of patches of an image.

        Raises:
            InputError: If patches don't divide it.
        """
        p = self.patch_size
        if p < 1 or height % p or width % p:
            raise InputError(f"patch size {p} does not divide an image of {height}x{width} pixels")
        return height // p, width // p

    def positions(self, grid: tuple[int, int]) -> Float[Array, "n d"]:
        """Return the positions of CLS and of the patches of a grid, float32."""
        base = self.grid(self.image_size, self.image_size)
        if self.learned:
            cls, patches = self.position[:1], self.position[1:]
        else:
            cls, patches = jnp.zeros((1, self.width)), sincos_positions(self.width, base)
        patches = resample_positions(
            patches, base, grid, offset=self.position_offset, antialias=self.position_antialias
        )
        return jnp.concatenate([cls, patches])

    def flops(self, patches: int, *, features_only: bool = False) -> int:
        """Return the floating-point operations of one sequence's forward pass, a multiplication and an addition as two.

        Counted are matrix products alone; training takes three times as many.
        """
        n, d = 1 + self.registers + patches, self.width
        mlp = self.blocks.mlp
        keys_and_values, row = 2 * d * d, 2 * d * d + d * mlp.hidden * (3 if mlp.gated else 2) + 2 * n * d
        rows = self.depth * n - (n - 1 if features_only else 0)  # of all blocks; the last one may have CLS alone
        return 2 * (patches * 3 * self.patch_size**2 * d + self.depth * n * keys_and_values + rows * row)

    def _embed(self, projected: Array, grid: tuple[int, int], keep: Array | None, mask: Array | None) -> Array:
        """Return the tokens [b, 1 + registers + m, d] that enter the first block."""
        positions = self.positions(grid)
        patches = (projected + (self.patch.bias[None] + positions[1:])[None]).astype(self.dtype)  # the sum in float32
        if mask is not None:
            token = self.mask[None] + positions[1:]
            patches = jnp.where(mask[:, :, None], token[None], patches).astype(self.dtype)
        if keep is not None:
            patches = jnp.take_along_axis(patches, keep[:, :, None], axis=1)
        rows = [(self.cls + positions[0])[None], *([self.register[...]] if self.registers else [])]
        first = jnp.concatenate(rows)
        first = jnp.broadcast_to(first[None], (len(patches), *first.shape)).astype(self.dtype)
        return jnp.concatenate([first, patches], axis=1)

    def _layer(self, index: int) -> Block:
        graphdef, stack = nnx.split(self.blocks)
        return nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[index], stack))

    def _block(self, index: int) -> int:
        if not -self.depth <= index < self.depth:
            raise InputError(f"block {index} does not exist: the encoder has {self.depth}, numbered from 0")
        return index % self.depth


def vit(size: str, *, rngs: nnx.Rngs, **overrides: Any) -> ViT:
    """Return a ViT of a named size, overridden at will.

    Ti, S, B, L and H are those of Touvron et al. 2021 and Dosovitskiy et al. 2021; g is DINOv2's, whose released
    weights also have mlp="swiglu".

    Args:
        size: "ti", "s", "b", "l", "h" or "g".
        rngs: For the initial weights.
        overrides: Arguments of `ViT`.

    Raises:
        InputError: If the size or an override is unknown.
    """
    _one_of("size", size, tuple(SIZES))
    unknown = sorted(overrides.keys() - inspect.signature(ViT.__init__).parameters)
    if unknown:
        raise InputError(f"a ViT has no argument {unknown[0]!r}")
    return ViT(**(SIZES[size] | overrides), rngs=rngs)


def _check(width: int, depth: int, registers: int, drop_path: float, positions: str, dtype: str, remat: str) -> None:
    _one_of("positions", positions, ("learned", "sincos"))
    _one_of("dtype", dtype, ("float32", "bfloat16"))
    _one_of("remat", remat, tuple(REMAT))
    if depth < 1:
        raise InputError(f"depth is {depth}: a ViT needs at least one block")
    if width < 1 or registers < 0:
        raise InputError(f"width is {width} and registers is {registers}: a ViT needs at least 1 and 0")
    if not 0.0 <= drop_path < 1.0:
        raise InputError(f"drop_path is {drop_path}: give a rate from 0 to below 1")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} {value!r} is unknown: use one of {', '.join(choices)}")
