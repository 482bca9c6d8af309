"""Networks of every kind that transformers has, tiny and far from their start."""

import functools

import jax
import numpy as np

from ssljax.export.network import Network
from ssljax.models.mae import MAEDecoder
from ssljax.models.pure import Pure, combine
from ssljax.models.resnet import resnet
from ssljax.models.vit import vit

TINY = {"size": "s", "image_size": 32, "patch_size": 8, "width": 48, "depth": 2, "heads": 3, "positions": "learned"}

VITS = {
    "vit": {"mlp_ratio": 2.5, "norm_eps": 1e-12},
    "dinov2": {"layer_scale": 0.5, "mask_token": True},
    "dinov2 with swiglu": {"layer_scale": 1.0, "mlp": "swiglu", "mlp_ratio": 4.0},
    "swiglu without LayerScale": {"mlp": "swiglu"},
    "dinov2 with registers": {"layer_scale": 1.0, "mask_token": True, "registers": 2, "position_antialias": True},
    "registers alone": {"registers": 3, "position_antialias": True},
}
"""Arguments beside `TINY`."""

DECODER = {"width": 48, "patch_size": 8, "hidden": 32, "depth": 2, "heads": 4, "mlp_ratio": 2.0}


def drawn(model, seed=0):
    """Return random parameters of a model, statistics among them, far from their start, so that a misplaced one shows.

    They are NumPy arrays; factors and variances lie around one, the rest around zero.
    """
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        return np.asarray(random.normal(path[-1].key in ("scale", "gamma", "var"), 0.1, leaf.shape), np.float32)

    shapes = combine(jax.eval_shape(model.init, jax.random.key(0)), jax.eval_shape(model.init_statistics))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def vit_network(**arguments):
    """Return a ViT as a network; `TINY` where the arguments don't say otherwise."""
    arguments = TINY | arguments
    params = drawn(Pure(functools.partial(vit, **arguments)))
    return Network({"encoder": {"name": "vit", **arguments}}, {"encoder": params})


def mae_network(**source):
    """Return a ViT with a MAE's decoder; `source` is its objective's."""
    network = vit_network()
    decoder = drawn(Pure(functools.partial(MAEDecoder, **DECODER)), seed=1)
    arguments = network.arguments | {"decoder": {"name": "mae_decoder", **DECODER}}
    return Network(arguments, network.params | {"decoder": decoder}, source={"config": {"objective": source}})


def resnet_network(**arguments):
    """Return a ResNet as a network, its batch norms' statistics among the parameters."""
    arguments = {"depth": 50, "blocks": [1, 2], "bottleneck": True, "width_multiplier": 0.125} | arguments
    params = drawn(Pure(functools.partial(resnet, **arguments)))
    return Network({"encoder": {"name": "resnet", **arguments}}, {"encoder": params})
