"""A data set and a config of "a user's own package", named by import path in the tests."""

import jax
import jax.numpy as jnp
import numpy as np

from ssljax.configuration import load
from ssljax.objectives.dora import DoRA

VERSION = "1"


class Clips:
    """Smooth random clips, a pure function of (seed, position)."""

    def __init__(self, *, frames, size, seed):
        self.frames, self.size, self.seed = frames, size, seed
        self.checksum = f"toy {VERSION} {frames} {size} {seed}"

    def __getitem__(self, position):
        random = np.random.default_rng([self.seed, position])
        coarse = random.integers(0, 256, size=(5, 5, 3), dtype=np.uint8)
        image = np.kron(coarse, np.ones((-(-self.size // 5),) * 2 + (1,), np.uint8))[: self.size, : self.size]
        frames = np.stack([np.roll(image, shift, axis=1) for shift in range(self.frames)])
        return {"frames": frames, "position": np.uint32(position)}

    def describe(self, position):
        return {"video": "toy", "times": [float(position)]}


class Images:
    """The first frames of such clips."""

    def __init__(self, *, size, seed):
        self._clips = Clips(frames=1, size=size, seed=seed)
        self.checksum = self._clips.checksum

    def __getitem__(self, position):
        clip = self._clips[position]
        return {"image": clip["frames"][0], "position": clip["position"]}

    def describe(self, position):
        return self._clips.describe(position)


class Counted(DoRA):
    """DoRA that reports which positions were in a batch: their sum, and the sum of squares above the smallest."""

    def loss(self, params, state, batch, key, step):
        out = super().loss(params, state, batch, key, step)
        positions = batch["position"].astype(jnp.float32)
        squares = jnp.sum(jnp.square(positions - jnp.min(positions)))
        return out._replace(metrics=out.metrics | {"positions": jnp.sum(positions), "squares": squares})


def views(frames, key):
    """Return the middle of each frame and two corners, with noise for the augmentation: quick to compile."""
    pixels = frames / jnp.float32(255) - 0.5
    pixels += 0.1 * jax.random.normal(key, pixels.shape)
    return pixels[:, 4:36, 4:36], jnp.stack([pixels[:, :16, :16], pixels[:, -16:, -16:]], axis=1)


def get_config(variant=""):
    config = load("configs/dora.py:smoke")
    config.unlock()
    config.data = {"name": "toy.Clips", "frames": config.data.frames, "size": config.data.size}
    config.views = {"name": "toy.views"}
    config.epochs = 4
    config.checkpoint.every = 3
    if variant == "counted":
        config.objective.name = "toy.Counted"
    return config
