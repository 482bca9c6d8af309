"""All protocols by the name that configs and the command line give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ssljax.evaluate.clips import Clips
from ssljax.evaluate.correspondence import Correspondence
from ssljax.evaluate.discovery import Discovery
from ssljax.evaluate.knn import KNN
from ssljax.evaluate.linear_segmentation import LinearSegmentation
from ssljax.evaluate.retrieval import Retrieval, Revisited
from ssljax.evaluate.segmentation import Segmentation

PROTOCOLS: dict[str, Callable[..., Any]] = {
    "knn": KNN,
    "segmentation": Segmentation,
    "linear_segmentation": LinearSegmentation,
    "discovery": Discovery,
    "correspondence": Correspondence,
    "retrieval": Retrieval,
    "revisited": Revisited,
    "clips": Clips,
}
