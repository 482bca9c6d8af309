"""A pretrained encoder in two lines: `encoder = ssljax.load(path)`, `features = encoder(images)`."""

from __future__ import annotations

import dataclasses
import functools
import operator
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from ml_collections import ConfigDict

from ssljax import build
from ssljax.data.imagefile import read_image
from ssljax.data.images import evaluation_view
from ssljax.errors import InputError
from ssljax.evaluate.encoders import check_size
from ssljax.export.network import encoder_of
from ssljax.export.read import read_and_tell
from ssljax.models.vit import ViT
from ssljax.objectives.base import Encoder
from ssljax.ops.augment import IMAGENET_MEAN, IMAGENET_STD, normalise

_SIZE = 224
"""Of images for an encoder that takes any and does not say which it was trained on."""


class Features(NamedTuple):
    """What an encoder makes of images, float32.

    Attributes:
        cls: [b, d], one vector an image: of a ViT the CLS token, of a ResNet the mean over positions.
        patches: [b, n, d], one vector a patch, row by row.
        attention: [b, h, n], a ViT's attention of CLS over the patches, by head; None of a ResNet.
    """

    cls: Float[Array, "b d"]
    patches: Float[Array, "b n d"]
    attention: Float[Array, "b h n"] | None


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """A pretrained encoder: `features = encoder(images)`.

    Attributes:
        encoder: The model and its parameters.
        image_size: Side in pixels of the images that it was trained on, or that were asked for.
        patch_size: Side in pixels of what one of the patches stands for.
        width: Of the features.
        source: Where it comes from: {"workdir", "step"} or {"weights"}.
        mean: Of normalised images, by colour.
        std: Their deviation.
    """

    encoder: Encoder
    image_size: int
    patch_size: int
    width: int
    source: dict[str, Any]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __call__(self, images: Any, *, layer: int = -1) -> Features:
        """Return the features of images, in what their encoder computes in and then as float32.

        It is compiled once for each shape, so that many images go in batches of one size.

        Args:
            images: [b, h, w, 3], or one image [h, w, 3], RGB, of any size that patches divide. Bytes (uint8) are
                normalised here; floats must be normalised already, by `mean` and `std`.
            layer: The block whose attention is returned; negative ones count from the end.

        Raises:
            InputError: Another dtype or shape, none at all, a size that patches don't divide, or no such block.
        """
        images, layer = _array(images), _whole("layer", layer)
        if images.ndim not in (3, 4) or images.shape[-1] != 3 or images.size == 0:
            raise InputError(f"images have the shape {list(images.shape)}; give [b, h, w, 3], or one image [h, w, 3].")
        if images.dtype != np.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
            raise InputError(f"images are of dtype {images.dtype}; give uint8, or floats that are normalised.")
        if images.dtype != np.uint8:
            images = images.astype(np.float32)
        is_vit = isinstance(self.encoder.model.abstract, ViT)
        if not is_vit and layer != -1:
            raise InputError(f"layer is {layer}, but the encoder is no ViT and has no attention; leave it out.")
        images = images[None] if images.ndim == 3 else images
        return _features(self.encoder.model, layer if is_vit else None, self.encoder.params, images)

    def prepare(self, image: UInt8[np.ndarray, "h w 3"] | str | os.PathLike[str]) -> UInt8[np.ndarray, "s s 3"]:
        """Return the middle of an image, or of an image file, at `image_size`, as evaluations cut it.

        Raises:
            InputError: The file cannot be read, or it is no image.
        """
        whole = read_image(Path(image)) if isinstance(image, str | os.PathLike) else np.asarray(_array(image))
        if whole.dtype != np.uint8 or whole.ndim != 3 or whole.shape[-1] != 3 or whole.size == 0:
            raise InputError(
                f"the image is {whole.dtype} {list(whole.shape)}; give uint8 [h, w, 3] from 0 to 255, or a file."
            )
        return evaluation_view(whole, self.image_size)


def load(path: str | os.PathLike[str], *, step: int | None = None, size: int | None = None) -> Pretrained:
    """Return the encoder of a run or of exported weights; what others' weights don't say goes to standard error.

    Args:
        path: The folder of a run, or a file or folder of weights, see `read_network`.
        step: Which checkpoint of a run; the newest by default.
        size: Side in pixels of the images that `prepare` cuts; by default what it was trained on.

    Raises:
        InputError: It is neither, cannot be read, or the size is none or one that patches don't divide.
    """
    path = Path(path)
    if size is not None and (size := _whole("size", size)) < 1:
        raise InputError(f"size is {size}; give the images' side in pixels, a whole number from 1 on.")
    if (path / "checkpoints").is_dir():
        run = build.restore(path, step)
        encoder = build.image_encoder(run.objective, run.state.params, run.state.state)
        trained = _image_size(run.config)
        source = {"workdir": str(path), "step": int(run.state.step)}
    elif not path.exists():
        raise InputError(f"{path} does not exist; give the folder of a run, or weights.")
    elif step is not None:
        raise InputError(f"step says which checkpoint of a run, and {path} is none; leave it out.")
    else:
        network = read_and_tell(path)
        encoder, trained, source = encoder_of(network), network.image_size or _SIZE, {"weights": str(path)}
    return of(encoder, trained if size is None else size, source)


def _array(images: Any) -> jax.Array | np.ndarray:
    """Return images where they are; those of other libraries and lists come to the host."""
    try:
        return images if isinstance(images, jax.Array) else np.asarray(images)
    except ValueError as error:
        raise InputError("the images differ in shape; give them one by one, or cut them with `prepare`.") from error


def _whole(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise InputError(f"{name} is {value!r}; give a whole number.") from error


def _image_size(config: ConfigDict) -> int:
    try:
        return build.image_size(config)
    except InputError:  # of an imported ResNet nobody may know it
        return _SIZE


def of(encoder: Encoder, size: int, source: dict[str, Any]) -> Pretrained:
    """Return an encoder ready to use on images of `size` pixels; InputError where patches don't divide it."""
    check_size(encoder, size)
    model = encoder.model.abstract
    patch_size = model.patch_size if isinstance(model, ViT) else _stride(encoder)
    return Pretrained(encoder, size, patch_size, model.width, source)


def _stride(encoder: Encoder) -> int:
    """Return how many pixels a ResNet's positions are apart: a power of two."""
    images = jax.ShapeDtypeStruct((1, 1024, 1024, 3), jnp.float32)
    return 1024 // round(jax.eval_shape(encoder.model, encoder.params, images).patches.shape[1] ** 0.5)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _features(model: Any, layer: int | None, params: Any, images: Any) -> Features:
    if images.dtype == jnp.uint8:
        images = normalise(images.astype(jnp.float32) / 255.0)
    output = model(params, images, **({} if layer is None else {"probe": layer}))
    attention = None if layer is None else output.probe.cls_attention
    cls, patches = output.features.astype(jnp.float32), output.patches.astype(jnp.float32)
    return Features(cls, patches, attention)
