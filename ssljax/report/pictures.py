"""Pictures of what a run learned, as far as its objective and encoder have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ssljax import build
from ssljax.models.vit import ViT
from ssljax.objectives.mae import MAE
from ssljax.report.attention import attention_maps, draw_attention
from ssljax.report.clip import Clip
from ssljax.report.features import draw_features, patch_features
from ssljax.report.inputs import covered, own_inputs
from ssljax.report.page import Figure
from ssljax.report.reconstructions import draw_reconstructions_of

_SAMPLES = 6
_IMAGES = 4
_ZOOM = 2  # the resolution that is looked at to that of training, so that the grid of patches shows shapes
_READABLE = ("images", "tfds", "frames", "windows")


def draw_pictures(run: build.Restored, clip: Clip | None, folder: Path, *, own: bool = True) -> list[Figure]:
    """Draw into a folder what a run's networks make of some of its data, and return what was drawn.

    Args:
        run: The checkpoint.
        clip: The frames that tracks are shown in, if there are any.
        folder: For PNG files.
        own: Whether the run's own data can be read; without them only the clip is shown.

    Raises:
        InputError: The data cannot be used.
    """
    figures = _of_vit(run, clip, folder) if own or clip is not None else []
    if own and isinstance(run.objective, MAE):
        path = folder / "reconstructions.png"
        unseen = draw_reconstructions_of(run.objective, run, path, count=_SAMPLES)
        whose = "What training left out" if unseen else "Some of the training data"
        caption = (
            f"{whose}: what the encoder sees, with what the decoder predicts in the hidden patches, and all of it."
        )
        figures.append(Figure("Reconstructions", path, caption))
    return figures


def _of_vit(run: build.Restored, clip: Clip | None, folder: Path) -> list[Figure]:
    """Draw where a ViT looks and what its patch features are; nothing of other encoders or data of the user's own."""
    encoder = build.image_encoder(run.objective, run.state.params, run.state.state)
    model = encoder.model.abstract
    if not isinstance(model, ViT) or (clip is None and run.config.data.name not in _READABLE):
        return []
    images, names = _images(run, clip)
    size = _ZOOM * build.image_size(run.config)
    pictures = [covered(image, size=size, patch_size=model.patch_size) for image in images]
    attention, features = folder / "attention.png", folder / "features.png"
    draw_attention(pictures, attention_maps(encoder, images, size=size), attention, names=names)
    draw_features(pictures, patch_features(encoder, images, size=size), features, names=names)
    return [
        Figure(
            "Where it looks",
            attention,
            "The attention of the CLS token over the patches in the last block: the mean over heads, and each head's.",
        ),
        Figure(
            "Which patches are alike",
            features,
            "The first three principal components of the patch features as red, green and blue: patches of the same "
            "colour have similar features, across all of the images.",
        ),
    ]


def _images(run: build.Restored, clip: Clip | None) -> tuple[list[np.ndarray], list[str]]:
    """Return what to look at and its names: of a clip a few frames, else of the run's data."""
    if clip is None:
        own = own_inputs(run.config, count=_IMAGES)
        return own.images, own.names
    chosen = np.unique(np.linspace(0, len(clip.frames) - 1, _IMAGES).round().astype(int))
    return [clip.frames[i] for i in chosen], [f"{clip.times[i]:.1f} s" for i in chosen]
