"""Classification of videos by the mean of their frames' features: k-NN as of images.

For UCF-101 (Soomro, Zamir, Shah 2012) and Kinetics (Kay et al. 2017). Each frame is encoded by itself, so that what is
measured is the image encoder, and nothing of motion.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ssljax.data.clips import LabelledClips, find_videos
from ssljax.errors import InputError
from ssljax.evaluate.encoders import POOLS, pooled
from ssljax.evaluate.knn import knn
from ssljax.evaluate.result import Result
from ssljax.objectives.base import Encoder


class Clips:
    """k-NN accuracy of videos, "clips_knn_10" to "clips_knn_200".

    Args:
        train: A list of videos to find neighbours among, see `find_videos`.
        test: Another, whose classes are among those of the first.
        videos: The folder of the videos.
        size: Side of the frames in pixels.
        frames: Of each video, evenly spread.
        batch_size: Videos encoded at once.
        pool: What stands for a frame, see `pooled`.

    Raises:
        InputError: A list or a number cannot be used, or `pool` is unknown.
    """

    def __init__(
        self,
        *,
        train: str,
        test: str,
        videos: str,
        size: int,
        frames: int = 8,
        batch_size: int = 32,
        pool: str = "features",
    ) -> None:
        if pool not in POOLS:
            raise InputError(f"pool is {pool!r}; give one of {', '.join(POOLS)}.")
        lists = [find_videos(place, videos) for place in (train, test)]
        classes = sorted({video.label for video in lists[0]})
        unknown = sorted({video.label for video in lists[1]} - set(classes))
        if unknown:
            raise InputError(f"{test} has the class {unknown[0]}, which {train} has not; give two lists of one split.")
        more: dict[str, Any] = dict(frames=frames, size=size, batch_size=batch_size)
        self._train, self._test = (LabelledClips(some, classes, **more) for some in lists)
        self._pool = pool
        self.data = {
            name: {"data": place, "videos": len(clips), "checksum": clips.checksum}
            for name, place, clips in (("train", train, self._train), ("test", test, self._test))
        }

    def __call__(self, encoder: Encoder, mesh: jax.sharding.Mesh) -> Result:
        """Return the accuracies.

        Raises:
            InputError: A video cannot be decoded.
        """
        found = knn(lambda clips: clip_features(encoder, clips, self._pool), self._train, self._test, mesh)
        return Result({f"clips_{name}": value for name, value in found.items()})


def clip_features(encoder: Encoder, clips: Any, pool: str) -> jax.Array:
    """Return the mean over frames of the features of clips uint8 [b, n, s, s, 3]: float32 [b, d]."""
    return _mean([pooled(encoder, clips[:, i], pool) for i in range(clips.shape[1])])


@jax.jit
def _mean(features: list[jax.Array]) -> jax.Array:
    return jnp.mean(jnp.stack(features), axis=0)
