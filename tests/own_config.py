"""A config of a user's own package: their objective on their data set, an encoder of ours."""

from __future__ import annotations

import toy
from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    config = toy.get_config()
    del config.views, config.models.head, config.optimizer.freeze, config.optimizer.freeze_epochs
    config.models.encoder.image_size = config.data["size"]
    config.objective = {"name": "own.MeanColour", "frames": config.data["frames"], "size": config.data["size"]}
    return config
