"""Networks of random weights as `ssljax.export` has them, and the lists of names of the released code."""

import functools
import json
from pathlib import Path

import jax
import numpy as np

from ssljax.export.network import Network
from ssljax.models.heads import BatchNormMLP, DINOHead
from ssljax.models.mae import MAEDecoder
from ssljax.models.pure import Pure, combine
from ssljax.models.resnet import resnet
from ssljax.models.vit import vit

NAMES = Path(__file__).parent / "export" / "names"
MAKE = {"vit": vit, "resnet": resnet, "dino_head": DINOHead, "batch_norm_mlp": BatchNormMLP, "mae_decoder": MAEDecoder}
VIT = dict(
    name="vit", size="s", image_size=32, patch_size=8, width=48, depth=2, heads=1, mlp_ratio=4.0, mlp="gelu",
    registers=0, layer_scale=None, mask_token=False, positions="learned", norm_eps=1e-6, position_offset=0.1,
    position_antialias=False,
)  # fmt: skip
RESNET = dict(name="resnet", depth=18, blocks=[1, 2, 1, 1], bottleneck=False, width_multiplier=0.125, stem="imagenet")
HEAD = dict(
    name="dino_head", width=48, hidden=16, bottleneck=8, prototypes=24, layers=3, norm_last_layer=True
)  # fmt: skip
MLP = dict(name="batch_norm_mlp", width=48, hidden=16, outputs=8, layers=3, last_norm=True)
DECODER = dict(
    name="mae_decoder", width=48, patch_size=8, hidden=32, depth=2, heads=16, mlp_ratio=4.0, norm_eps=1e-6
)  # fmt: skip


def model(arguments):
    """Return the model that a part's arguments make."""
    arguments = dict(arguments)
    return Pure(functools.partial(MAKE[arguments.pop("name")], **arguments))


def shapes(arguments):
    """Return a part's arrays without their memory: each is one zero, broadcast."""
    net = model(arguments)
    tree = jax.eval_shape(lambda: combine(net.init(jax.random.key(0)), net.init_statistics()))
    return jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), tree)


def network(seed=0, **arguments):
    """Return a network of random weights, and of random positive statistics, by role."""
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        values = random.normal(scale=0.1, size=leaf.shape).astype(np.float32)
        return np.abs(values) + np.float32(0.5) if path[-1].key in ("var", "gain") else values

    params = {role: jax.tree_util.tree_map_with_path(draw, shapes(some)) for role, some in arguments.items()}
    return Network({role: dict(some) for role, some in arguments.items()}, params)


def assert_same_bytes(one, other):
    """Compare two state dicts, bit for bit."""
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert (array.dtype, array.shape) == (other[name].dtype, other[name].shape), name
        assert array.tobytes() == other[name].tobytes(), name


def assert_same_params(one, other):
    """Compare two trees of arrays, bit for bit."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def listed(name):
    """Return the shapes of a committed list by parameter name; of the blocks the first stands for all."""
    return {key: tuple(shape) for key, shape in json.loads((NAMES / f"{name}.json").read_text())["shapes"].items()}
