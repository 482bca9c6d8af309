"""`ssljax show reconstructions`: what a masked autoencoder sees, what it makes of that, and what was there."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from ml_collections import ConfigDict

from ssljax import build
from ssljax.errors import InputError
from ssljax.models.pure import Params
from ssljax.objectives.base import PyTree
from ssljax.objectives.imported import Imported
from ssljax.objectives.mae import MAE
from ssljax.ops import keys as rng
from ssljax.ops.arrays import Array
from ssljax.ops.masking import patch_statistics, patchify, unpatchify
from ssljax.report.picture import labelled_grid, with_note
from ssljax.report.views import fit_cell, masked_view, to_pixels

_IMAGES_PER_ROW = 3
_COLUMNS = ("masked", "reconstructed", "original")
_NOTE = "Each hidden patch has its true mean and contrast: this run predicts the rest."


def show_reconstructions(workdir: Path, output: Path, *, step: int | None = None, count: int = 8) -> bool:
    """Draw samples of a run's data as the paper's Figure 2 does (He et al. 2022).

    Masked, reconstructed, original: side by side, or one below the other for windows of frames. The reconstruction is
    the prediction where patches were hidden and the original elsewhere. A run with `norm_pix_loss` predicts patches
    less their mean and over their deviation; they are drawn with the original's own, as VideoMAE's released code draws
    them, and the picture says so: a hidden patch's mean and contrast are given, its structure alone is predicted.

    Args:
        workdir: Of the run.
        output: The PNG file.
        step: Which checkpoint; the newest by default.
        count: Samples drawn: of what training left out at the end of videos (`data.seconds`), or else of its own data.

    Returns:
        Whether training left them out.

    Raises:
        InputError: No such run, one of another objective, or its data cannot be used.
    """
    run = build.restore(workdir, step)
    mae = run.objective
    if isinstance(mae, Imported):
        raise InputError(
            f"{workdir} holds imported weights, and reconstructions need a run with data; start one from it with "
            f"--config configs/mae.py --config.init_from={workdir}."
        )
    if not isinstance(mae, MAE):
        raise InputError(f"{workdir} is a run of {type(mae).__name__}; reconstructions are drawn of MAE.")
    output.parent.mkdir(parents=True, exist_ok=True)
    return draw_reconstructions_of(mae, run, output, count=count)


def draw_reconstructions_of(mae: MAE, run: build.Restored, output: Path, *, count: int) -> bool:
    """Draw what a checkpoint of MAE predicts to a PNG file; see `show_reconstructions`."""
    config, unseen = held_out(run.config)
    data = build.dataset(config)
    items = [data[position] for position in range(count)]
    batch = {name: jnp.asarray(np.stack([item[name] for item in items])) for name in items[0]}
    key = rng.named(jax.random.key(config.seed), "reconstructions")
    images, predicted, hidden = jax.device_get(jax.jit(lambda p: _reconstruct(mae, p, batch, key))(run.state.params))
    draw_reconstructions(images, predicted, hidden, output, normalised=mae.norm_pix_loss)
    return unseen


def held_out(config: ConfigDict) -> tuple[ConfigDict, bool]:
    """Return a run's config with its data what training left out at the end of videos, and whether it left out any."""
    seconds = config.data.get("seconds") or (None, None)
    if seconds[1] is None:
        return config, False
    config = ConfigDict(config.to_dict())
    config.data.seconds = (seconds[1], None)
    return config, True


def pixels_of(mae: MAE, predicted: Float[Array, "b t n p"], images: Float[Array, "b t g g 3"]) -> Array:
    """Return predicted patches as normalised images; with `norm_pix_loss`, the images' own statistics put back."""
    model = mae.encoder.abstract
    if mae.norm_pix_loss:
        mean, deviation = patch_statistics(patchify(images, model.patch_size))
        predicted = predicted * deviation + mean
    return unpatchify(predicted, model.grid(*images.shape[2:4]))


def draw_reconstructions(
    images: Float[np.ndarray, "b t g g 3"],
    predicted: Float[np.ndarray, "b t g g 3"],
    hidden: Bool[np.ndarray, "b n"],
    path: Path,
    *,
    normalised: bool,
) -> None:
    """Draw normalised images to a PNG file: what is seen of each, its reconstruction and itself.

    Args:
        images: The originals; single images are windows of one frame.
        predicted: The decoder's, of all patches.
        hidden: The patches that the encoder did not see.
        path: Of the file.
        normalised: Whether the predictions have the originals' mean and deviation, which the picture then says.
    """
    columns = [_columns(images[i], predicted[i], hidden[i]) for i in range(len(images))]
    if images.shape[1] == 1:
        parts = [columns[i : i + _IMAGES_PER_ROW] for i in range(0, len(columns), _IMAGES_PER_ROW)]
        rows = [[frames[0] for part in row for frames in part] for row in parts]
        sheet = labelled_grid(rows, row_names=[""] * len(rows), column_names=_COLUMNS * len(parts[0]))
    else:
        rows = [frames for clip in columns for frames in clip]
        frames = [f"frame {t + 1}" for t in range(images.shape[1])]
        sheet = labelled_grid(rows, row_names=_COLUMNS * len(columns), column_names=frames)
    (with_note(sheet, _NOTE) if normalised else sheet).save(path, optimize=True)


def _columns(images: np.ndarray, predicted: np.ndarray, hidden: np.ndarray) -> list[list[np.ndarray]]:
    """Return the cells of one sample: a list of frames for each of `_COLUMNS`."""
    masked = [masked_view(image, ~hidden) for image in images]
    whole = [seen + masked_view(image, hidden) for seen, image in zip(masked, predicted, strict=True)]
    return [[fit_cell(to_pixels(image)) for image in column] for column in (masked, whole, images)]


def _reconstruct(mae: MAE, params: Params, batch: PyTree, key: jax.Array) -> tuple[Array, Array, Array]:
    images, noise = mae.draw(batch, key)
    out = mae.reconstruct(params, images, noise)
    return images, pixels_of(mae, out.predicted, images), out.hidden
