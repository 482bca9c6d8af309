"""onnxruntime computes from the exported graph what the encoder computes here."""

import functools
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

from ssljax.errors import InputError
from ssljax.export.network import Network
from ssljax.export.onnx_graph import to_model, write
from ssljax.models.pure import Pure, combine
from ssljax.models.resnet import resnet
from ssljax.models.vit import vit

VIT = dict(name="vit", size="s", image_size=32, patch_size=8, width=48, depth=2, heads=3)
RESNET = dict(name="resnet", depth=18, blocks=[1, 2], bottleneck=False, width_multiplier=0.125)


def network(arguments: dict[str, Any], seed: int = 0) -> tuple[Network, Pure]:
    """Return a network with weights far from their start, so that a misplaced one shows, and its model."""
    constructor = {"vit": vit, "resnet": resnet}[arguments["name"]]
    model = Pure(functools.partial(constructor, **{k: v for k, v in arguments.items() if k != "name"}))
    random = np.random.default_rng(seed)
    params = combine(model.init(jax.random.key(seed)), model.init_statistics())
    params = jax.tree.map(lambda p: np.asarray(p + abs(random.normal(scale=0.1, size=p.shape)), np.float32), params)
    signs = functools.partial(random.choice, [-1.0, 1.0])
    params = jax.tree.map_with_path(
        lambda path, p: p if getattr(path[-1], "key", "") == "var" else p * signs(size=p.shape).astype(np.float32),
        params,
    )
    return Network({"encoder": arguments}, {"encoder": params}), model


def run(model: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model if isinstance(model, str) else model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images.transpose(0, 3, 1, 2)}), strict=True))


def ours(model: Pure, given: Network, images: np.ndarray) -> dict[str, np.ndarray]:
    is_vit = given.arguments["encoder"]["name"] == "vit"
    keywords = {"probe": -1} if is_vit else {}
    with jax.default_matmul_precision("highest"):
        output = jax.jit(functools.partial(model, **keywords))(given.params["encoder"], jnp.asarray(images))
    if not is_vit:
        return {"features": output.features, "patches": output.patches}
    return {"cls": output.cls, "patches": output.patches, "attention": output.probe.cls_attention}


def largest_difference(theirs: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    assert theirs.keys() == expected.keys()
    assert all(theirs[name].shape == expected[name].shape for name in expected)
    assert all(array.dtype == np.float32 for array in theirs.values())
    return max(float(np.abs(theirs[name] - expected[name]).max()) for name in expected)


def images(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(size).normal(size=(count, size, size, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("more", "size"),
    [
        ({}, 32),
        ({"patch_size": 16, "image_size": 64, "registers": 4, "layer_scale": 0.5}, 96),
        ({"patch_size": 14, "image_size": 28, "mlp": "swiglu", "position_offset": 0.1, "mask_token": True}, 42),
        ({"positions": "sincos", "position_antialias": True, "norm_eps": 1e-5}, 24),
    ],
    ids=["plain", "registers", "swiglu", "sincos"],
)
def test_vit_computes_the_same(more, size):
    given, model = network(VIT | more)
    for side in {size, model.abstract.image_size}:
        exported = to_model(given, image_size=side)
        for count in (1, 3):
            pixels = images(count, side)
            difference = largest_difference(run(exported, pixels), ours(model, given, pixels))
            assert difference < 1e-5


@pytest.mark.parametrize("more", [{}, {"bottleneck": True}, {"stem": "cifar"}], ids=["basic", "bottleneck", "cifar"])
def test_resnet_computes_the_same_at_any_size(more):
    given, model = network(RESNET | more)
    exported = to_model(given)
    for count, size in ((1, 32), (3, 47)):
        pixels = images(count, size)
        difference = largest_difference(run(exported, pixels), ours(model, given, pixels))
        assert difference < 1e-5


def test_half_precision_halves_the_file_and_keeps_the_sums(tmp_path):
    given, model = network(VIT | {"width": 96})
    pixels, sizes = images(2, 32), []
    for dtype in ("float32", "float16"):
        write(to_model(given, dtype), tmp_path / f"{dtype}.onnx")
        sizes.append((tmp_path / f"{dtype}.onnx").stat().st_size)
    assert sizes[1] < 0.55 * sizes[0]
    theirs = run(str(tmp_path / "float16.onnx"), pixels)
    assert 1e-6 < largest_difference(theirs, ours(model, given, pixels)) < 1e-2


def test_files_are_the_same_each_time_and_say_what_was_given(tmp_path):
    given, _ = network(VIT)
    for name in ("one.onnx", "other.onnx"):
        write(to_model(given, metadata={"ssljax": '{"heads": 3}'}), tmp_path / name)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "other.onnx").read_bytes()
    session = onnxruntime.InferenceSession(tmp_path / "one.onnx")
    assert session.get_modelmeta().custom_metadata_map == {"ssljax": '{"heads": 3}'}
    assert session.get_inputs()[0].shape == ["batch", 3, 32, 32]
    assert [output.shape for output in session.get_outputs()] == [["batch", 48], ["batch", 16, 48], ["batch", 3, 16]]


def test_large_weights_lie_beside_the_model(tmp_path):
    given, _ = network(VIT)
    for dtype in ("float32", "float16"):
        path = tmp_path / dtype / "model.onnx"
        path.parent.mkdir()
        write(to_model(given, dtype), path, most=10_000)
        assert sorted(file.name for file in path.parent.iterdir()) == ["model.onnx", "model.onnx.data"]
        assert path.stat().st_size < 40_000
        write(to_model(given, dtype), path.with_name("whole.onnx"))
        pixels = images(1, 32)
        theirs, whole = (run(str(file), pixels) for file in (path, path.with_name("whole.onnx")))
        assert largest_difference(theirs, whole) == 0.0


def test_too_large_for_a_file_is_told(tmp_path):
    given, _ = network(VIT)
    with pytest.raises(InputError, match="0.0 GB, more than one ONNX file holds; give a folder"):
        write(to_model(given), tmp_path / "encoder.onnx", most=10_000)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_told(tmp_path, monkeypatch):
    given, _ = network(VIT)
    with pytest.raises(InputError, match="'bfloat16' cannot be had in ONNX.*float32 or float16"):
        to_model(given, "bfloat16")
    with pytest.raises(InputError, match="patch size 8 does not divide"):
        to_model(given, image_size=33)
    given.params["encoder"]["norm"]["scale"] *= 1e6  # vectors stay float32
    to_model(given, "float16")
    given.params["encoder"]["patch"]["kernel"] *= 1e6
    with pytest.raises(InputError, match="float16 cannot hold patch.kernel"):
        to_model(given, "float16")
    with pytest.raises(InputError, match="cannot be written"):
        write(to_model(given), tmp_path / "missing" / "model.onnx")
    monkeypatch.setattr(onnx.checker, "check_model", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write(to_model(given), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs onnx, which is not installed: pip install 'ssljax\[onnx\]'"):
        to_model(given)


@pytest.mark.long
def test_vit_small_at_full_size(tmp_path):
    given, model = network(dict(name="vit", size="s", image_size=224, patch_size=16))
    write(to_model(given), tmp_path / "model.onnx")
    pixels = images(2, 224)
    difference = largest_difference(run(str(tmp_path / "model.onnx"), pixels), ours(model, given, pixels))
    assert difference < 1e-4
