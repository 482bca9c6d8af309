"""Pictures of what a run learned, as far as its objective and encoder have them."""

from __future__ import annotations

from pathlib import Path

from ssljax import build
from ssljax.objectives.mae import MAE
from ssljax.report.clip import Clip
from ssljax.report.page import Figure
from ssljax.report.reconstructions import draw_reconstructions_of

_SAMPLES = 6


def draw_pictures(run: build.Restored, clip: Clip | None, folder: Path) -> list[Figure]:
    """Draw into a folder what a run's networks make of some of its data, and return what was drawn.

    Args:
        run: The checkpoint.
        clip: The frames that tracks are shown in, if there are any.
        folder: For PNG files.

    Raises:
        InputError: The data cannot be used.
    """
    figures = []
    if isinstance(run.objective, MAE):
        path = folder / "reconstructions.png"
        unseen = draw_reconstructions_of(run.objective, run, path, count=_SAMPLES)
        whose = "What training left out" if unseen else "Some of the training data"
        caption = (
            f"{whose}: what the encoder sees, with what the decoder predicts in the hidden patches, and all of it."
        )
        figures.append(Figure("Reconstructions", path, caption))
    return figures
