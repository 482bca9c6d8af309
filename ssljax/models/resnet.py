"""Residual networks (He et al. 2016), as torchvision has them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ssljax.errors import InputError
from ssljax.mesh import shard_batch
from ssljax.models.norm import BatchNorm
from ssljax.models.products import convolve
from ssljax.ops import arrays

DEPTHS: dict[int, tuple[tuple[int, ...], bool]] = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
"""Blocks of each stage, and whether they are bottlenecks."""


class ResNetOutput(NamedTuple):
    """What a ResNet returns, in its dtype.

    Attributes:
        features: [b, d], the mean of the last feature map over its positions.
        patches: [b, n, d], the last feature map, row by row.
    """

    features: Float[Array, "b d"]
    patches: Float[Array, "b n d"]


class Convolution(nnx.Module):
    """A convolution without bias, padded by half the kernel: kernel [k, k, inputs, outputs].

    Starts normal with variance 2 / (k * k * outputs): He et al. 2015, "fan out".
    """

    def __init__(self, inputs: int, outputs: int, size: int, *, stride: int = 1, dtype: str, rngs: nnx.Rngs) -> None:
        self.stride, self.dtype = stride, dtype
        start = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
        self.kernel = nnx.Param(start(rngs.params(), (size, size, inputs, outputs)))

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        """Return the filtered maps."""
        return convolve(x.astype(self.dtype), self.kernel[...], self.stride)


class Block(nnx.Module):
    """Two 3x3 convolutions, or a bottleneck (1x1, 3x3, 1x1 to four times the width), around a shortcut.

    The stride is in the first 3x3 convolution, as torchvision and "ResNet v1.5" have it.

    Args:
        inputs: Channels of the input.
        width: Channels of the 3x3 convolutions.
        stride: Of the block.
        bottleneck: Which of the two.
        zero_init: Whether the last batch norm's scale starts at zero, so that the block starts as its shortcut (Goyal
            et al. 2017).
        dtype: Of the computation.
        rngs: For the initial weights.
    """

    def __init__(
        self, inputs: int, width: int, *, stride: int, bottleneck: bool, zero_init: bool, dtype: str, rngs: nnx.Rngs
    ) -> None:
        self.outputs = 4 * width if bottleneck else width
        sizes = [(1, 1), (3, stride), (1, 1)] if bottleneck else [(3, stride), (3, 1)]
        widths = [inputs, *[width] * (len(sizes) - 1), self.outputs]
        self.count = len(sizes)
        for i, (size, step) in enumerate(sizes):
            last = i == self.count - 1
            convolution = Convolution(widths[i], widths[i + 1], size, stride=step, dtype=dtype, rngs=rngs)
            setattr(self, f"conv{i + 1}", convolution)
            setattr(
                self, f"norm{i + 1}", BatchNorm(widths[i + 1], scale=0.0 if last and zero_init else 1.0, dtype=dtype)
            )
        self.projects = stride > 1 or inputs != self.outputs
        if self.projects:
            self.shortcut = Convolution(inputs, self.outputs, 1, stride=stride, dtype=dtype, rngs=rngs)
            self.shortcut_norm = BatchNorm(self.outputs, dtype=dtype)

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        """Return the block's output."""
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(y))
            y = jax.nn.relu(y) if i < self.count else y
        return jax.nn.relu(y + (self.shortcut_norm(self.shortcut(x)) if self.projects else x))


class ResNet(nnx.Module):
    """A residual network without classifier.

    Block i of stage s is `layer{s}_{i}`, as torchvision's `layer{s}.{i}`.

    Args:
        blocks: Of each stage; each stage after the first halves the side of the maps and doubles the channels.
        bottleneck: See `Block`.
        width_multiplier: Channels of every layer over ResNet's (64 in the first stage).
        stem: "imagenet", a 7x7 convolution of stride 2 and a max pool, or "cifar", a 3x3 convolution alone (Chen et al.
            2020, appendix B.9).
        zero_init: See `Block`.
        dtype: Of the computation, "float32" or "bfloat16"; parameters and batch norms are float32.
        remat: What the backward pass recomputes: "none", or "full", everything in a block.
        rngs: For the initial weights.

    Raises:
        InputError: An unknown name, a stage without blocks, or no channels.
    """

    def __init__(
        self,
        *,
        blocks: Sequence[int],
        bottleneck: bool,
        width_multiplier: float = 1,
        stem: str = "imagenet",
        zero_init: bool = True,
        dtype: str = "float32",
        remat: str = "none",
        rngs: nnx.Rngs,
    ) -> None:
        width = round(64 * width_multiplier)
        _check(blocks, width, stem, dtype, remat)
        self.stem, self.dtype, self.remat = stem, dtype, remat
        self.blocks, self.bottleneck, self.width_multiplier = tuple(blocks), bottleneck, width_multiplier
        large = stem == "imagenet"
        self.conv = Convolution(3, width, 7 if large else 3, stride=2 if large else 1, dtype=dtype, rngs=rngs)
        self.norm = BatchNorm(width, dtype=dtype)
        inputs, names = width, []
        for stage, count in enumerate(blocks):
            for i in range(count):
                block = Block(
                    inputs,
                    width * 2**stage,
                    stride=2 if stage and not i else 1,
                    bottleneck=bottleneck,
                    zero_init=zero_init,
                    dtype=dtype,
                    rngs=rngs,
                )
                names.append(f"layer{stage + 1}_{i}")
                setattr(self, names[-1], block)
                inputs = block.outputs
        self.names, self.width = tuple(names), inputs

    def __call__(
        self, images: Float[arrays.Array, "b h w 3"], *, keys: Any = None, features_only: bool = False
    ) -> ResNetOutput:
        """Return the encoding of normalised images of any size.

        Args:
            images: Batch first.
            keys: One a sample, as every encoder takes them; a ResNet draws nothing.
            features_only: As every encoder takes it; a ResNet's features need all else.
        """
        with jax.named_scope("stem"):
            x = jax.nn.relu(self.norm(self.conv(jnp.asarray(images, self.dtype))))
        if self.stem == "imagenet":
            x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for name in self.names:
            block = getattr(self, name)
            with jax.named_scope(name.partition("_")[0]):
                x = shard_batch(_recomputed(block, x) if self.remat == "full" else block(x))
        features = jnp.mean(x.astype(jnp.float32), axis=(1, 2)).astype(self.dtype)
        return ResNetOutput(features, x.reshape(x.shape[0], -1, x.shape[-1]))


def resnet(depth: int, *, rngs: nnx.Rngs, **options: Any) -> ResNet:
    """Return the ResNet of a named depth, overridden at will.

    Args:
        depth: 18, 34, 50, 101 or 152 layers.
        rngs: For the initial weights.
        options: Arguments of `ResNet`.

    Raises:
        InputError: The depth or an option is unknown.
    """
    if depth not in DEPTHS:
        raise InputError(f"depth is {depth}: there is a ResNet of {', '.join(map(str, DEPTHS))} layers")
    unknown = sorted(options.keys() - inspect.signature(ResNet.__init__).parameters)
    if unknown:
        raise InputError(f"a ResNet has no argument {unknown[0]!r}")
    blocks, bottleneck = DEPTHS[depth]
    arguments: dict[str, Any] = {"blocks": blocks, "bottleneck": bottleneck}
    return ResNet(**(arguments | options), rngs=rngs)


def _recomputed(block: Block, x: Array) -> Array:
    """Call the block, keeping for the backward pass its input alone.

    The statistics leave the recomputed function as values: what is written into a module there would not outlive it.
    """
    graphdef, state = nnx.split(block)

    @jax.checkpoint
    def call(state: Any, x: Array) -> tuple[Array, Any]:
        copy = nnx.merge(graphdef, state, copy=True)
        return copy(x), nnx.state(copy, nnx.BatchStat)

    x, statistics = call(state, x)
    nnx.update(block, statistics)
    return x


def _check(blocks: Sequence[int], width: int, stem: str, dtype: str, remat: str) -> None:
    choices = {"stem": ("imagenet", "cifar"), "dtype": ("float32", "bfloat16"), "remat": ("none", "full")}
    for (name, known), value in zip(choices.items(), (stem, dtype, remat), strict=True):
        if value not in known:
            raise InputError(f"{name} {value!r} is unknown: use one of {', '.join(known)}")
    if not blocks or min(blocks) < 1:
        raise InputError(f"blocks is {tuple(blocks)}: each stage of a ResNet needs at least one")
    if width < 1:
        raise InputError("width_multiplier leaves no channel: give at least 1/64")
