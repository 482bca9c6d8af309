"""End-to-end fine-tuning of a ViT on labelled images, by MAE's recipe."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

from ssljax.data.epochs import training_batches
from ssljax.errors import InputError
from ssljax.evaluate.heads import check_rates, fit, share_right, total_steps
from ssljax.evaluate.labelled import described, labelled_pair
from ssljax.evaluate.numbers import check_decay, check_seed
from ssljax.evaluate.result import Result
from ssljax.mesh import local_rows, shardings
from ssljax.models.blocks import LayerNorm
from ssljax.models.pure import Params, Pure
from ssljax.models.vit import ViT
from ssljax.objectives.base import Encoder
from ssljax.ops import keys as rng
from ssljax.ops.augment import normalise
from ssljax.ops.losses import soft_cross_entropy
from ssljax.ops.mixing import erase, mix, smoothed
from ssljax.optim import adamw, constant, cosine

_INPUTS = ("cls", "position", "register", "mask", "patch")
_NO_DECAY = ("bias", "scale", "gamma", "cls", "position", "register", "mask")


class FineTune:
    """Accuracy "finetune" of a ViT that is trained further, whole, with a linear classifier on its mean patch token.

    He et al. 2022 (MAE, arXiv 2111.06377, table 9), as released for ViT-B: AdamW, a learning rate for each layer,
    mixup, CutMix, smoothed labels, random erasing, drop path, random resized crops and flips, 5 of 100 epochs of
    warm-up and half a cosine to 1e-6. Without RandAugment, which the paper has too: expect a little less than with it.
    The encoder's final norm is left out and a new one normalises the mean, as there.

    Args:
        train: A prepared set of labelled images to learn from.
        test: Another with the same classes.
        size: Side of the images in pixels.
        batch_size: Images of an update.
        epochs: Passes over the training images; the first twentieth is the warm-up.
        learning_rate: Of the classifier at a batch of 256; the learning rate is in proportion to the batch.
        layer_decay: Each layer's learning rate over that of the next; see `layer_rates`.
        weight_decay: Of kernels, times the learning rate.
        drop_path: Rate of the last block.
        mixup: See `ssljax.ops.mixing.mix`.
        cutmix: See `ssljax.ops.mixing.mix`.
        smoothing: Of the labels.
        erase: Probability of random erasing.
        seed: Of all that is random.

    Raises:
        InputError: The data cannot be used, or a value is out of its range.
    """

    takes_pixels = False  # bare pixels have nothing to train further

    def __init__(
        self,
        *,
        train: str,
        test: str,
        size: int,
        batch_size: int = 1024,
        epochs: float = 100,
        learning_rate: float = 5e-4,
        layer_decay: float = 0.65,
        weight_decay: float = 0.05,
        drop_path: float = 0.1,
        mixup: float = 0.8,
        cutmix: float = 1.0,
        smoothing: float = 0.1,
        erase: float = 0.25,
        seed: int = 0,
    ) -> None:
        check_rates([learning_rate], "learning_rate")
        check_decay(weight_decay)
        check_seed(seed)
        if not 0 < layer_decay <= 1:
            raise InputError(f"layer_decay is {layer_decay}; give a number above 0, at most 1.")
        at_most = dict(smoothing=smoothing, erase=erase, drop_path=drop_path)
        for name, value in (at_most | dict(mixup=mixup, cutmix=cutmix)).items():
            if not 0 <= value < math.inf or (name in at_most and value > 1):
                raise InputError(f"{name} is {value}; give a number from 0{' to 1' if name in at_most else ''}.")
        self.size, self._batch_size, self._epochs, self._seed = size, batch_size, epochs, seed
        self._rate, self._layer_decay, self._decay = learning_rate, layer_decay, weight_decay
        self._drop_path, self._mix = drop_path, dict(mixup=mixup, cutmix=cutmix)
        self._smoothing, self._erase = smoothing, erase
        self._pair = labelled_pair(train=train, test=test, size=size, batch_size=batch_size)
        self.data = described(train=self._pair[0], test=self._pair[1])

    def __call__(self, encoder: Encoder, mesh: jax.sharding.Mesh) -> Result:
        """Return the accuracy; the encoder's own parameters stay as they are.

        Raises:
            InputError: The encoder is no ViT, the batch fits neither mesh nor set, or the loss is no number any more.
        """
        train, test = self._pair
        steps = total_steps(len(train), self._batch_size, self._epochs, mesh)
        network = Classifier.of(encoder, len(train.classes), self._drop_path)
        optimizer = optax.chain(
            adamw(
                learning_rate=cosine(
                    start=self._rate * self._batch_size / 256, end=1e-6, steps=steps, warmup_steps=steps // 20
                ),
                weight_decay=constant(value=self._decay),
                no_decay=_NO_DECAY,
            ),
            scale_by_layer(network.depth, self._layer_decay),
        )
        key = jax.random.key(self._seed)
        start = functools.partial(initial_state, network, optimizer)
        shapes = jax.eval_shape(start, encoder.params, key)
        with jax.set_mesh(mesh):
            state = jax.jit(start, out_shardings=shardings(shapes, mesh))(encoder.params, rng.named(key, "head"))
        update = functools.partial(self._update, network, optimizer, rng.named(key, "step"))
        rows = local_rows(mesh, self._batch_size)
        batches = training_batches(train, rows=rows, batch_size=self._batch_size, steps=steps, seed=self._seed)
        (params, _, _), loss = fit(jax.jit(update, donate_argnums=0), state, batches, self._batch_size, mesh)
        if not math.isfinite(float(loss)):
            raise InputError(f"The loss of fine-tuning became {float(loss)}; lower learning_rate ({self._rate}).")
        classify = jax.jit(network.logits)
        accuracy = share_right(lambda images: classify(params, images), test, mesh)
        return Result({"finetune": float(accuracy)}, {"steps": steps, "loss": float(loss)})

    def _update(
        self, network: Classifier, optimizer: optax.GradientTransformation, key: Array, state: Any, batch: Any
    ) -> tuple[Any, Array]:
        params, opt_state, step = state
        erasing, mixing, dropping = jax.random.split(jax.random.fold_in(key, step), 3)
        keys = [rng.per_sample(part, jnp.arange(self._batch_size)) for part in (erasing, dropping)]
        images = normalise(batch["input"].astype(jnp.float32) / 255.0)
        images = jax.vmap(functools.partial(erase, probability=self._erase))(images, keys[0])
        targets = smoothed(batch["label"], network.classes, self._smoothing)
        images, targets = mix(images, targets, mixing, **self._mix)

        def loss(params: Params) -> Array:
            logits = network(params, images, keys[1])
            return jnp.mean(soft_cross_entropy(logits, targets, temperature=1.0))

        value, gradients = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, step + 1), value


class ClassifierHead(nnx.Module):
    """A layer norm and a linear layer that starts close to zero, at a deviation of 2e-5, as MAE's does."""

    def __init__(self, *, width: int, classes: int, rngs: nnx.Rngs) -> None:
        self.norm = LayerNorm(width, 1e-6, "float32", rngs)
        self.linear = nnx.Linear(width, classes, kernel_init=nnx.initializers.normal(2e-5), rngs=rngs)

    def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b c"]:
        """Return the logits."""
        return self.linear(self.norm(x))


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A ViT and a head on the mean of its patch tokens; parameters {"encoder", "head"}.

    Attributes:
        encoder: A ViT.
        head: A ClassifierHead.
        classes: Number of logits.
    """

    encoder: Pure
    head: Pure
    classes: int

    @classmethod
    def of(cls, encoder: Encoder, classes: int, drop_path: float) -> Classifier:
        """Return the classifier for an encoder, whose drop path is set.

        Raises:
            InputError: The encoder is no ViT.
        """
        module = getattr(encoder.model, "abstract", None)
        if not isinstance(module, ViT):
            kind = type(encoder.model if module is None else module).__name__
            raise InputError(f"Fine-tuning takes a ViT, not a {kind}: its learning rates follow the blocks.")
        model = Pure(functools.partial(encoder.model.make, drop_path=drop_path))
        return cls(model, Pure(functools.partial(ClassifierHead, width=module.width, classes=classes)), classes)

    @property
    def depth(self) -> int:
        """The encoder's number of blocks."""
        return self.encoder.abstract.depth

    def __call__(self, params: Params, images: Float[Array, "b h w 3"], keys: Any = None) -> Float[Array, "b c"]:
        """Return the logits of normalised images; `keys`, one an image, are for drop path."""
        tokens = self.encoder(params["encoder"], images, layers=(-1,), keys=keys).layers[0]
        patches = tokens[:, 1 + self.encoder.abstract.registers :]
        return self.head(params["head"], jnp.mean(patches.astype(jnp.float32), axis=1))

    def logits(self, params: Params, images: Any) -> Float[Array, "b c"]:
        """Return the logits of images uint8 [b, s, s, 3], as they are tested."""
        return self(params, normalise(images.astype(jnp.float32) / 255.0))


def initial_state(
    network: Classifier, optimizer: optax.GradientTransformation, encoder: Params, key: Array
) -> tuple[Params, Any, Array]:
    """Return (parameters, the optimiser's state, updates done) before the first update; the encoder's are copied."""
    # A copy, since updates overwrite their input, and the encoder may be that of a run.
    params = {"encoder": jax.tree.map(jnp.copy, encoder), "head": network.head.init(key)}
    return params, optimizer.init(params), jnp.zeros((), jnp.int32)


def layer_rates(params: Params, depth: int, decay: float) -> Params:
    """Return the factor of each parameter's learning rate: decay^(depth + 1 - layer); a stack of blocks has one each.

    Layer 0 is all that makes the tokens, block i is layer i + 1, what follows the blocks is layer depth + 1. Clark et
    al. 2020 (ELECTRA), as Bao et al. 2022 (BEiT) and MAE have it.

    Args:
        params: {"encoder": of a ViT, "head": any}.
        depth: Number of blocks.
        decay: Of one layer over the next.
    """

    def factor(path: Any, leaf: Any) -> Array:
        names = [key.key for key in path]
        if "blocks" in names:
            return (decay ** (depth - jnp.arange(depth, dtype=jnp.float32))).reshape(depth, *[1] * (leaf.ndim - 1))
        return jnp.asarray(decay ** (depth + 1) if names[0] == "encoder" and names[1] in _INPUTS else 1.0)

    return jax.tree_util.tree_map_with_path(factor, params)


def scale_by_layer(depth: int, decay: float) -> optax.GradientTransformation:
    """Scale updates by `layer_rates`."""

    def scale(updates: Params, params: Params) -> Params:
        return jax.tree.map(lambda update, factor: update * factor, updates, layer_rates(updates, depth, decay))

    return optax.stateless(scale)
