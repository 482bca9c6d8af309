"""What a config may name: constructors by section and name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ssljax import optim
from ssljax.data.frames import Frames
from ssljax.data.images import Images
from ssljax.data.tfds import TFDS
from ssljax.data.windows import Windows
from ssljax.evaluate.attentive import Attentive
from ssljax.evaluate.clips import Clips
from ssljax.evaluate.correspondence import Correspondence
from ssljax.evaluate.davis import Davis
from ssljax.evaluate.discovery import Discovery
from ssljax.evaluate.finetune import FineTune
from ssljax.evaluate.health import Health
from ssljax.evaluate.knn import KNN
from ssljax.evaluate.linear import Linear
from ssljax.evaluate.linear_segmentation import LinearSegmentation
from ssljax.evaluate.retrieval import Retrieval, Revisited
from ssljax.evaluate.segmentation import Segmentation
from ssljax.evaluate.tracks import TrackConsistency
from ssljax.models.heads import BatchNormMLP, DINOHead
from ssljax.models.mae import MAEDecoder
from ssljax.models.resnet import resnet
from ssljax.models.vit import vit
from ssljax.objectives.dino import DINO
from ssljax.objectives.dinov2 import DINOv2
from ssljax.objectives.dora import DoRA
from ssljax.objectives.imported import Imported
from ssljax.objectives.mae import MAE
from ssljax.objectives.mocov3 import MoCoV3
from ssljax.objectives.simclr import SimCLR
from ssljax.ops.augment import clip_views, crop_view, image_views

CONSTRUCTORS: dict[str, dict[str, Callable[..., Any]]] = {
    "objective": {
        "dino": DINO,
        "dinov2": DINOv2,
        "dora": DoRA,
        "imported": Imported,
        "mae": MAE,
        "mocov3": MoCoV3,
        "simclr": SimCLR,
    },
    "models": {
        "vit": vit,
        "resnet": resnet,
        "dino_head": DINOHead,
        "batch_norm_mlp": BatchNormMLP,
        "mae_decoder": MAEDecoder,
    },
    "views": {"clip_views": clip_views, "crop_view": crop_view, "image_views": image_views},
    "data": {"frames": Frames, "images": Images, "tfds": TFDS, "windows": Windows},
    "evaluate": {
        "attentive": Attentive,
        "clips": Clips,
        "correspondence": Correspondence,
        "davis": Davis,
        "discovery": Discovery,
        "finetune": FineTune,
        "health": Health,
        "knn": KNN,
        "linear": Linear,
        "linear_segmentation": LinearSegmentation,
        "retrieval": Retrieval,
        "revisited": Revisited,
        "segmentation": Segmentation,
        "tracks": TrackConsistency,
    },
    "optimizer": {"adamw": optim.adamw, "lars": optim.lars},
    "schedule": {"cosine": optim.cosine, "linear": optim.linear, "constant": optim.constant},
}
"""What `name` may be in each section of a config; an import path "package.module.Name" is the other way to say it."""
