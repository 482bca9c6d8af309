"""The attentive probe: one cross-attention block with a learned query, and a linear classifier, on frozen tokens."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

from ssljax.errors import InputError
from ssljax.evaluate.heads import Grid, check_rates, probe, total_steps
from ssljax.evaluate.labelled import described, labelled_pair
from ssljax.evaluate.numbers import check_decay, check_seed
from ssljax.evaluate.result import Result
from ssljax.models.attention import linear
from ssljax.models.blocks import LayerNorm, Mlp
from ssljax.models.pure import Pure
from ssljax.objectives.base import Encoder
from ssljax.ops.augment import normalise
from ssljax.optim import cosine

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 5e-3)


class Attentive:
    """Accuracy "attentive" of V-JEPA's attentive probe on frozen tokens of labelled images.

    Bardes et al. 2024 (arXiv 2404.08471, appendix D), with the learning rates that V-JEPA 2's probes try (Assran et al.
    2025, arXiv 2506.09985): AdamW, half a cosine to 0 over 20 epochs. All learning rates are trained at once, the
    encoder runs once for each batch, and the best on the test images is reported. The training images are random
    resized crops and flips, without the AutoAugment of the released code.

    Args:
        train: A prepared set of labelled images to learn from.
        test: Another with the same classes.
        size: Side of the images in pixels.
        batch_size: Images of an update.
        epochs: Passes over the training images.
        learning_rates: As they are, whatever the batch.
        weight_decay: Of all parameters of the probe, times the learning rate.
        heads: Of the cross-attention; None takes as many as there are 64 channels, or the next number that divides.
        augment: False encodes each image once, from its centre crop, and keeps all tokens in the host's memory (images
            times tokens times width times 4 bytes): quicker on a CPU, and a different protocol from the paper's.
        seed: Of the probe's start, the order and the crops.

    Raises:
        InputError: The data cannot be used, or a value is out of its range.
    """

    def __init__(
        self,
        *,
        train: str,
        test: str,
        size: int,
        batch_size: int = 256,
        epochs: float = 20,
        learning_rates: Sequence[float] = RATES,
        weight_decay: float = 0.01,
        heads: int | None = None,
        augment: bool = True,
        seed: int = 0,
    ) -> None:
        check_rates(learning_rates)
        check_decay(weight_decay)
        check_seed(seed)
        self.size, self._batch_size, self._epochs, self._seed = size, batch_size, epochs, seed
        self._rates, self._decay = tuple(learning_rates), weight_decay
        self._heads, self._augment = heads, augment
        self._pair = labelled_pair(train=train, test=test, size=size, batch_size=batch_size)
        self.data = described(train=self._pair[0], test=self._pair[1])

    def __call__(self, encoder: Encoder, mesh: jax.sharding.Mesh) -> Result:
        """Return the best accuracy, and all in the details.

        Raises:
            InputError: The heads do not divide the encoder's width, or the batch fits neither mesh nor set.
        """
        train = self._pair[0]
        steps = total_steps(len(train), self._batch_size, self._epochs, mesh)
        extract = functools.partial(frozen_tokens, encoder)
        width = jax.eval_shape(extract, jax.ShapeDtypeStruct((1, self.size, self.size, 3), jnp.uint8)).shape[2]
        heads = _dividing(width) if self._heads is None else self._heads
        if heads < 1 or width % heads:
            raise InputError(f"heads is {heads}; give a divisor of the encoder's width {width}.")
        head = functools.partial(AttentiveHead, width=width, heads=heads, classes=len(train.classes))
        direction = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(self._decay))
        grid = Grid(Pure(head), self._rates, direction, cosine(start=1.0, end=0.0, steps=steps))
        return probe(
            "attentive",
            grid,
            extract,
            self._pair,
            mesh,
            batch_size=self._batch_size,
            steps=steps,
            augment=self._augment,
            seed=self._seed,
        )


class AttentiveHead(nnx.Module):
    """A query attends to all tokens, an MLP follows, each with a shortcut, and a linear layer gives the logits.

    As V-JEPA's: x = q + attention(q, norm(tokens)), x = x + mlp(norm(x)); the attention has no output projection.
    Weights start normal with deviation 0.02, the MLP's last ones less by sqrt(2); PyTorch's uniform start of the
    classifier is not taken.

    Args:
        width: Of the tokens.
        heads: Of the attention, a divisor of the width.
        classes: Number of logits.
        rngs: For the initial weights.
    """

    def __init__(self, *, width: int, heads: int, classes: int, rngs: nnx.Rngs) -> None:
        self.heads = heads
        self.query = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (width,)))
        self.norm1, self.norm2 = (LayerNorm(width, 1e-5, "float32", rngs) for _ in range(2))
        self.q = linear(width, width, "float32", rngs)
        self.kv = linear(width, 2 * width, "float32", rngs)
        self.mlp = Mlp(width=width, ratio=4.0, kind="gelu", dtype="float32", rngs=rngs)
        self.mlp.fc2.kernel[...] = self.mlp.fc2.kernel[...] / math.sqrt(2.0)
        self.linear = linear(width, classes, "float32", rngs)

    def __call__(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b c"]:
        """Return the logits."""
        tokens = self.norm1(tokens.astype(jnp.float32))
        keys, values = jnp.split(self.kv(tokens).reshape(*tokens.shape[:2], 2 * self.heads, -1), 2, axis=2)
        query = jnp.broadcast_to(self.query[None, None, :], (len(tokens), 1, self.query.shape[0]))
        queries = self.q(query).reshape(len(tokens), 1, self.heads, -1)
        x = query + jax.nn.dot_product_attention(queries, keys, values).reshape(query.shape)
        x = x + self.mlp(self.norm2(x))
        return self.linear(x[:, 0])


def frozen_tokens(encoder: Encoder, images: Any) -> Float[Array, "b n d"]:
    """Return the tokens of images uint8 [b, s, s, 3] after the final norm, CLS first where there is one."""
    return _tokens(encoder.model, encoder.params, images)


@functools.partial(jax.jit, static_argnums=0)
def _tokens(model: Any, params: Any, images: Any) -> Float[Array, "b n d"]:
    output = model(params, normalise(images.astype(jnp.float32) / 255.0))
    if hasattr(output, "cls"):
        return jnp.concatenate([output.cls[:, None], output.patches], axis=1)
    return output.patches


def _dividing(width: int) -> int:
    return next(heads for heads in range(max(1, width // 64), 0, -1) if width % heads == 0)
