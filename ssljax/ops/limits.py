"""What the views of an image may be asked for."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Array, Float

from ssljax.errors import InputError

Probability = float | Float[Array, ""]


def check_scales(**scales: Sequence[float]) -> None:
    """Raise InputError where a view asks for nothing, or for a crop larger than the frame."""
    for name, scale in scales.items():
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise InputError(
                f"views.{name} is {tuple(scale)}; give the smallest and largest share of the frame that a crop covers, "
                "above 0 and at most 1: a crop cannot be larger than the frame."
            )


def check_sizes(image: Sequence[int], **sizes: int) -> None:
    """Raise InputError where a view has more pixels than what it is cut from."""
    for name, size in sizes.items():
        if size > min(image):
            raise InputError(
                f"views.{name} is {size}, but the images are {min(image)} pixels wide: a view that is larger than its "
                "image shows nothing more; lower it, or raise data.size."
            )


def check_colours(jitter: Sequence[float], **probabilities: Probability) -> None:
    """Raise InputError where a strength or a probability is none; of arrays only a run shows the value."""
    if len(jitter) != 4 or min(jitter) < 0 or jitter[3] > 0.5:
        raise InputError(
            f"views.jitter is {tuple(jitter)}; give the strengths of brightness, contrast, saturation and hue, at "
            "least 0, hue at most 0.5."
        )
    for name, value in probabilities.items():
        if isinstance(value, int | float) and not 0 <= value <= 1:
            raise InputError(f"views.{name} is {value}; give a number from 0 to 1.")


def check_pairs(**pairs: Sequence[float]) -> None:
    """Raise InputError where these are no probabilities of the two global views."""
    for name, pair in pairs.items():
        if len(pair) != 2 or not all(0 <= value <= 1 for value in pair):
            raise InputError(f"views.{name} is {tuple(pair)}; give two numbers from 0 to 1, one for each global view.")
