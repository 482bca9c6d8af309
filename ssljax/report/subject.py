"""Whose pictures are drawn: the encoder of a run or of a file of weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from ssljax import build
from ssljax.data.imageset import ImageSet, ImageSource
from ssljax.errors import InputError
from ssljax.export.network import encoder_of
from ssljax.export.read import read_and_tell
from ssljax.models.vit import ViT
from ssljax.objectives.base import Encoder, Objective
from ssljax.objectives.imported import Imported
from ssljax.report.inputs import Inputs, own_inputs, own_set, read_inputs

STANDARD_SIZE = 224
"""Of images in pixels, where it is not known on which an encoder was trained."""


class Subject(NamedTuple):
    """An encoder to draw pictures of.

    Attributes:
        encoder: With its parameters.
        size: Side in pixels of the images that it was trained on.
        name: For titles.
        folder: Where pictures go by default.
        config: Of the run; None for a file of weights.
        objective: Of the run; None for a file of weights.
    """

    encoder: Encoder
    size: int
    name: str
    folder: Path
    config: ConfigDict | None = None
    objective: Objective | None = None


def read_subject(workdir: Path | None, step: int | None, weights: Path | None) -> Subject:
    """Return the encoder of a run's checkpoint (the newest by default), or of a file of weights, see `read_network`.

    Raises:
        InputError: Neither or both are named, or it cannot be read.
    """
    if (workdir is None) == (weights is None):
        raise InputError("Name whose pictures to draw: --workdir RUN or --weights FILE, one of them.")
    if weights is not None:
        if step is not None:
            raise InputError("--step says which checkpoint of a run, and --weights names a file; give one of them.")
        network = read_and_tell(weights)
        return Subject(encoder_of(network), network.image_size or STANDARD_SIZE, weights.name, weights.parent)
    assert workdir is not None
    run = build.restore(workdir, step)
    encoder = build.image_encoder(run.objective, run.state.params, run.state.state)
    name = f"{type(run.objective).__name__} after {int(run.state.step):,} updates"
    size = (
        run.objective.image_size or STANDARD_SIZE
        if isinstance(run.objective, Imported)
        else build.image_size(run.config)
    )
    return Subject(encoder, size, name, workdir, run.config, run.objective)


def vit_of(subject: Subject, picture: str) -> ViT:
    """Return the shapes of a subject's ViT; InputError where it is none, which `picture` needs."""
    model = subject.encoder.model.abstract
    if not isinstance(model, ViT):
        raise InputError(f"{subject.name} has a {type(model).__name__}, and {picture} is drawn of ViTs alone.")
    return model


def inputs_of(subject: Subject, places: Sequence[Path], count: int, seconds: Sequence[float] | None) -> Inputs:
    """Return what to look at: what is named, or else the run's own data; see `read_inputs` and `own_inputs`."""
    if count < 1:
        raise InputError(f"--count is {count}; give at least 1.")
    if places:
        return read_inputs(places, count=count, seconds=seconds, config=subject.config)
    if subject.config is None or "data" not in subject.config:
        raise InputError("Weights come without data; name images, a folder of them, a prepared folder or a video.")
    return own_inputs(subject.config, count=count, seconds=seconds)


def set_of(subject: Subject, data: Path | None) -> ImageSource:
    """Return a prepared set of images: the one that is named, or else the run's own."""
    if data is not None:
        return ImageSet(data)
    if subject.config is None or "data" not in subject.config:
        raise InputError("Weights come without data; name a prepared set of images with --data.")
    return own_set(subject.config)


def output_of(subject: Subject, output: Path | None, default: str, suffixes: Sequence[str] = (".png",)) -> Path:
    """Return the file to write, its folder made; InputError where its suffix says no kind that can be written."""
    path = output or subject.folder / default
    if path.suffix not in suffixes:
        raise InputError(f"--output is {path}; give a file that ends in {' or '.join(suffixes)}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
