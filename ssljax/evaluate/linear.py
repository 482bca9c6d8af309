"""The linear probe: a linear classifier on frozen features, by the recipe of DINO and DINOv2 or by that of MAE."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

from ssljax.errors import InputError
from ssljax.evaluate.heads import Grid, check_rates, probe, total_steps
from ssljax.evaluate.labelled import described, labelled_pair
from ssljax.evaluate.numbers import check_seed
from ssljax.evaluate.result import Result
from ssljax.models.norm import BatchNorm
from ssljax.models.pure import Pure
from ssljax.objectives.base import Encoder
from ssljax.ops.augment import normalise
from ssljax.optim import cosine, scale_by_trust_ratio


class Recipe(NamedTuple):
    """How a paper trains its linear classifier.

    Attributes:
        rates: Base learning rates; times batch / 256 they are the learning rates.
        epochs: Passes over the images.
        warmup: Their part in which the learning rate rises from 0; then it falls to 0, half a cosine.
        blocks: How many of the last blocks' CLS tokens are the features of a ViT.
        normalise: Whether a batch norm without scale and bias comes before the linear layer.
    """

    rates: tuple[float, ...]
    epochs: int
    warmup: float
    blocks: int
    normalise: bool


RECIPES = {
    "dino": Recipe(
        rates=(1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1),
        epochs=100,
        warmup=0.0,
        blocks=4,
        normalise=False,
    ),
    "mae": Recipe(rates=(0.1,), epochs=90, warmup=10 / 90, blocks=1, normalise=True),
}


class Linear:
    """Accuracy "linear" of a linear classifier on frozen features of labelled images.

    "dino": Caron et al. 2021 (arXiv 2104.14294, section 4.1 and appendix F.2), with the learning rates of Oquab et al.
    2024 (arXiv 2304.07193, appendix B.3): SGD with momentum 0.9. "mae": He et al. 2022 (table 10): LARS, a batch norm.
    Both train on random resized crops and flips, without weight decay, and test on centre crops. All learning rates
    are trained at once, the encoder runs once for each batch, and the best on the test images is reported.

    Args:
        train: A prepared set of labelled images to learn from.
        test: Another with the same classes.
        size: Side of the images in pixels.
        batch_size: Images of an update.
        recipe: "dino" or "mae".
        epochs: Passes over the training images; None is the recipe's.
        learning_rates: At a batch of 256; none are the recipe's.
        n_blocks: The CLS tokens of so many last blocks, each after the final norm, are a ViT's features; None is the
            recipe's. Encoders without blocks give their own features.
        average_patches: Whether the mean of the last block's patch tokens joins them.
        augment: False encodes each image once, from its centre crop, and keeps the features in the host's memory
            (images times features times 4 bytes): much quicker on a CPU, and a different protocol from the papers'.
        seed: Of the head's start, the order and the crops.

    Raises:
        InputError: The data cannot be used, or a value is out of its range.
    """

    def __init__(
        self,
        *,
        train: str,
        test: str,
        size: int,
        batch_size: int = 1024,
        recipe: str = "dino",
        epochs: float | None = None,
        learning_rates: Sequence[float] = (),
        n_blocks: int | None = None,
        average_patches: bool = False,
        augment: bool = True,
        seed: int = 0,
    ) -> None:
        if recipe not in RECIPES:
            raise InputError(f"recipe is {recipe!r}; give one of {', '.join(RECIPES)}.")
        self._recipe = RECIPES[recipe]
        self._rates = tuple(learning_rates) or self._recipe.rates
        check_rates(self._rates)
        check_seed(seed)
        self._blocks = self._recipe.blocks if n_blocks is None else n_blocks
        if self._blocks < 1:
            raise InputError(f"n_blocks is {n_blocks}; give at least 1.")
        self.size, self._batch_size, self._seed = size, batch_size, seed
        self._epochs = self._recipe.epochs if epochs is None else epochs
        self._average, self._augment = average_patches, augment
        self._pair = labelled_pair(train=train, test=test, size=size, batch_size=batch_size)
        self.data = described(train=self._pair[0], test=self._pair[1])

    def check(self, encoder: Encoder, mesh: jax.sharding.Mesh) -> tuple[int, int]:
        """Return how many blocks' tokens are taken and how many updates are done; parameters may be shapes.

        Raises:
            InputError: The encoder has fewer blocks than asked, or the batch fits neither mesh nor set.
        """
        blocks = block_count(encoder, self.size, self._blocks)
        return blocks, total_steps(len(self._pair[0]), self._batch_size, self._epochs, mesh)

    def __call__(self, encoder: Encoder, mesh: jax.sharding.Mesh) -> Result:
        """Return the best accuracy, and all in the details; raises what `check` does."""
        (blocks, steps), train = self.check(encoder, mesh), self._pair[0]
        extract = functools.partial(frozen_features, encoder, blocks=blocks, average_patches=self._average)
        width = jax.eval_shape(extract, jax.ShapeDtypeStruct((1, self.size, self.size, 3), jnp.uint8)).shape[1]
        head = functools.partial(LinearHead, width=width, classes=len(train.classes), normalise=self._recipe.normalise)
        scale = self._batch_size / 256
        grid = Grid(
            Pure(head),
            tuple(rate * scale for rate in self._rates),
            lars_direction() if self._recipe.normalise else optax.trace(decay=0.9),
            cosine(start=1.0, end=0.0, steps=steps, warmup_steps=int(self._recipe.warmup * steps)),
        )
        return probe(
            "linear",
            grid,
            extract,
            self._pair,
            mesh,
            batch_size=self._batch_size,
            steps=steps,
            augment=self._augment,
            seed=self._seed,
        )


class LinearHead(nnx.Module):
    """A linear layer, perhaps after a batch norm without scale and bias; kernel normal with deviation 0.01, bias zero.

    Args:
        width: Of the features.
        classes: Number of logits.
        normalise: Whether there is the batch norm, its eps 1e-6 as in MAE.
        rngs: For the initial weights.
    """

    def __init__(self, *, width: int, classes: int, normalise: bool = False, rngs: nnx.Rngs) -> None:
        self.normalise = normalise
        if normalise:
            self.norm = BatchNorm(width, affine=False, eps=1e-6)
        self.linear = nnx.Linear(width, classes, kernel_init=nnx.initializers.normal(0.01), rngs=rngs)

    def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b c"]:
        """Return the logits."""
        return self.linear(self.norm(x) if self.normalise else x)


def lars_direction() -> optax.GradientTransformation:
    """Return MAE's LARS less its learning rate: trust ratio 0.001 for kernels, then momentum 0.9.

    The learning rate comes after the momentum, as in the released code of MoCo v3 and MAE, not inside it as in
    `ssljax.optim.lars`.
    """
    kernels = lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)  # noqa: E731
    return optax.chain(optax.masked(scale_by_trust_ratio(0.001), kernels), optax.trace(decay=0.9))


def block_count(encoder: Encoder, size: int, wanted: int) -> int:
    """Return how many blocks' tokens to take: `wanted`, or 0 of an encoder whose output has no `layers`.

    Raises:
        InputError: The encoder has fewer blocks, or takes no images of this size.
    """
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    if not hasattr(jax.eval_shape(encoder.model, encoder.params, images), "layers"):
        return 0
    depth = encoder.model.abstract.depth
    if wanted > depth:
        raise InputError(f"n_blocks is {wanted}, but the encoder has {depth} blocks; give at most so many.")
    return wanted


def frozen_features(encoder: Encoder, images: Any, *, blocks: int, average_patches: bool) -> Float[Array, "b d"]:
    """Return the features of images uint8 [b, s, s, 3], float32; compiled once for each shape and all parameters.

    Args:
        encoder: Of normalised images.
        images: On the mesh.
        blocks: The CLS tokens of so many last blocks, each after the final norm; 0 takes the encoder's `features`.
        average_patches: Whether the mean of the patch tokens follows.
    """
    return _frozen(encoder.model, blocks, average_patches, encoder.params, images)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _frozen(model: Any, blocks: int, average_patches: bool, params: Any, images: Any) -> Float[Array, "b d"]:
    pixels = normalise(images.astype(jnp.float32) / 255.0)
    if blocks:
        output = model(params, pixels, layers=tuple(range(-blocks, 0)))
        parts = [model(params, tokens, method="norm")[:, 0] for tokens in output.layers]
    else:
        output = model(params, pixels)
        parts = [output.features]
    parts += [jnp.mean(output.patches.astype(jnp.float32), axis=1)] if average_patches else []
    return jnp.concatenate([part.astype(jnp.float32) for part in parts], axis=-1)
