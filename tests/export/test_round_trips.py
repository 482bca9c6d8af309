"""What is written is read, kept as a run and written again: the same bytes, and the same features."""

import functools

import jax
import numpy as np
import pytest
from released import DECODER, HEAD, MLP, RESNET, VIT, assert_same_params, model, network
from safetensors.numpy import save_file

from ssljax.cli import main
from ssljax.errors import InputError
from ssljax.export import read_network, write_network
from ssljax.export.formats import FORMATS
from ssljax.export.network import with_image_size
from ssljax.export.official import to_state
from ssljax.export.runs import network_of_run

RATIO = VIT | dict(position_offset=0.0)  # positions are interpolated by the ratio of sizes, as in MAE and MoCo v3
V2 = VIT | dict(layer_scale=0.5, mask_token=True)
REGISTERS = V2 | dict(registers=4, position_offset=0.0, position_antialias=True)
NETWORKS = {
    "vit, patches of 8": dict(encoder=VIT),
    "vit, patches of 14": dict(encoder=VIT | dict(patch_size=14, image_size=42, heads=3)),
    "vit, patches of 16": dict(encoder=VIT | dict(patch_size=16, norm_eps=1e-5, mlp_ratio=2.5)),
    "sincos": dict(encoder=VIT | dict(positions="sincos")),
    "LayerScale": dict(encoder=V2),
    "SwiGLU": dict(encoder=VIT | dict(mlp="swiglu")),
    "registers": dict(encoder=REGISTERS),
    "registers alone": dict(encoder=REGISTERS | dict(layer_scale=None, mask_token=False)),
    "basic": dict(encoder=RESNET),
    "bottleneck": dict(encoder=RESNET | dict(depth=50, bottleneck=True)),
    "wide": dict(encoder=RESNET | dict(width_multiplier=1, blocks=[1, 1, 1, 1])),
    "cifar": dict(encoder=RESNET | dict(stem="cifar")),
    "mae": dict(encoder=RATIO, decoder=DECODER),
    "head": dict(encoder=VIT, head=HEAD),
    "lengths": dict(encoder=VIT, head=HEAD | dict(norm_last_layer=False)),
    "lengths of one": dict(encoder=VIT, head=HEAD | dict(norm_last_layer=False)),
    "patch head": dict(encoder=REGISTERS, head=HEAD, patch_head=HEAD | dict(prototypes=12)),
    "moco": dict(encoder=RATIO, projector=MLP, predictor=MLP | dict(width=8, layers=2)),
    "moco of a resnet": dict(encoder=RESNET, projector=MLP | dict(width=64, layers=2)),
}
RESNETS = ["basic", "bottleneck", "wide", "cifar", "moco of a resnet"]
HEADS = ["mae", "head", "lengths", "lengths of one", "patch head", "moco", "moco of a resnet"]
BARE = [name for name in NETWORKS if name not in HEADS]
HELD = {
    "safetensors": list(NETWORKS),
    "npz": list(NETWORKS),
    "dino": [name for name in NETWORKS if name != "cifar"],
    "timm": [name for name in BARE if name not in ("basic", "bottleneck", "cifar", "vit, patches of 16")],
    "transformers": [*(name for name in BARE if name != "cifar"), "mae"],
    "torchvision": ["basic", "bottleneck", "wide"],
}
"""By format what it can hold: timm's ResNets start with 64 channels, and its layer norms' epsilon is 1e-6."""

SOURCE = {
    "objective": "dino",
    "step": 100,
    "samples": 25600,
    "image_size": 32,
    "data": {"name": "images", "data": "flowers"},
    "metrics": {"knn": {"top1": 61.25}},
    "config": {"seed": 0, "objective": {"name": "dino"}},
    "license": "CC BY 4.0: ask",
}


@functools.cache
def made(name):
    """Return a network of random weights that says where it comes from."""
    arguments = NETWORKS[name]
    ours = network(**arguments)._replace(source=SOURCE, averaged=name == "head")
    if name == "lengths of one":
        ours.params["head"]["last"]["gain"] = np.ones(24, np.float32)
    if arguments["encoder"].get("positions") == "sincos":  # as `network_of` makes of it: positions are written out
        fixed = model(arguments["encoder"])(ours.params["encoder"], (4, 4), method="positions")
        ours.params["encoder"]["position"] = np.asarray(fixed)
        ours.arguments["encoder"]["positions"] = "learned"
    return ours


def contents(place):
    """Return the bytes of a file, or of a folder's files by name."""
    return {file.name: file.read_bytes() for file in place.iterdir()} if place.is_dir() else place.read_bytes()


def assert_same_files(one, other):
    assert contents(one) == contents(other)


def as_held(ours, format):
    """Return a network as a format keeps it: timm has no mask token, and CLS's position in its token with registers."""
    if format != "timm" or ours.arguments["encoder"]["name"] != "vit":
        return ours
    encoder = {name: part for name, part in ours.params["encoder"].items() if name != "mask"}
    if "register" in encoder:
        position = encoder["position"].copy()
        encoder["cls"], position[0] = encoder["cls"] + position[0], 0.0
        encoder["position"] = position
    return ours._replace(
        arguments={"encoder": ours.arguments["encoder"] | {"mask_token": False}}, params={"encoder": encoder}
    )


@pytest.mark.parametrize(("format", "name"), [(format, name) for format, names in HELD.items() for name in names])
def test_there_and_back(format, name, tmp_path):
    """Of the same parameters and arguments the features are the same as well."""
    ours = made(name)
    write_network(ours, tmp_path / "one", format=format)
    back = read_network(tmp_path / "one")
    write_network(back, tmp_path / "two", format=format)
    assert_same_files(tmp_path / "one", tmp_path / "two")
    assert (back.source, back.averaged, back.notes) == (SOURCE, ours.averaged, ())
    assert back.arguments == as_held(ours, format).arguments
    assert_same_params(back.params, as_held(ours, format).params)


@pytest.mark.parametrize("format", [format for format in HELD if HELD[format] != list(NETWORKS)])
def test_what_a_format_cannot_hold_is_told(format, tmp_path):
    for name in NETWORKS.keys() - HELD[format]:
        with pytest.raises(InputError):
            write_network(made(name), tmp_path / "folder", format=format)
    assert not list(tmp_path.iterdir())


HALVES = [
    ("dino", "lengths"),
    ("dino", "mae"),
    ("timm", "registers"),
    ("transformers", "mae"),
    ("transformers", "registers alone"),
    ("torchvision", "basic"),
    ("safetensors", "moco"),
    ("npz", "bottleneck"),
]


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("format", "name"), HALVES)
def test_halves(format, name, dtype, tmp_path):
    """As single files, where there are."""
    suffix = next(iter(FORMATS[format].suffixes), "")
    ours, one, two = made(name), tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"
    if (format, dtype) == ("npz", "bfloat16"):
        with pytest.raises(InputError, match=r"one.npz: NumPy's files have no bfloat16"):
            write_network(ours, one, format=format, dtype=dtype)
        assert not list(tmp_path.iterdir())
        return
    write_network(ours, one, format=format, dtype=dtype)
    back = read_network(one)
    write_network(back, two, format=format, dtype=dtype)
    assert_same_files(one, two)
    close = {"float16": 5e-4, "bfloat16": 4e-3}[dtype]  # a half's bits; the smallest numbers keep fewer
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=close, atol=1e-6), back.params, as_held(ours, format).params
    )
    assert [dtype in note for note in back.notes] == [True]


@pytest.mark.parametrize(
    ("format", "name"),
    [
        ("dino", "lengths of one"),
        ("dino", "patch head"),
        ("dino", "moco"),
        ("timm", "SwiGLU"),
        ("timm", "registers"),
        ("transformers", "mae"),
        ("transformers", "bottleneck"),
        ("torchvision", "basic"),
        ("safetensors", "cifar"),
        ("npz", "moco of a resnet"),
    ],
)
def test_an_imported_run_is_exported_as_it_was(format, name, tmp_path, capsys):
    one, run, two = (tmp_path / name for name in ("one", "run", "two"))
    write_network(made(name), one, format=format)
    assert main(["import", "--from", f"{one}", "--output", f"{run}"]) == 0
    told = capsys.readouterr().out
    heads = ["--with-head"] * (name in HEADS)
    assert main(["export", "--workdir", f"{run}", "--format", format, *heads, "--output", f"{two}"]) == 0
    assert_same_files(one, two)
    for role in made(name).params:
        assert f"matched    {role}: " in told
    assert sorted(file.name for file in run.iterdir()) == ["checkpoints", "config.json"]


def test_both_copies_of_a_training_checkpoint(tmp_path, capsys):
    arguments = NETWORKS["head"]
    student, teacher = (network(seed, **arguments) for seed in (1, 2))
    state = {
        f"{copy}.{key}": array
        for copy, net in (("student", student), ("teacher", teacher))
        for key, array in to_state(net).items()
    }
    save_file(state, tmp_path / "checkpoint.safetensors")
    run = tmp_path / "run"
    assert main(["import", "--from", f"{tmp_path / 'checkpoint.safetensors'}", "--output", f"{run}"]) == 0
    assert "matched    student's head: 7 arrays" in capsys.readouterr().out
    for copy, expected in (("image", teacher), ("teacher", teacher), ("student", student)):
        found = network_of_run(run, copy=copy, heads=True)
        assert found.averaged == (copy != "student")
        assert_same_params(found.params, expected.params)

    larger = ["--image-size", "48", "--output", f"{tmp_path / 'larger'}"]
    assert main(["import", "--from", f"{tmp_path / 'checkpoint.safetensors'}", *larger]) == 0
    for copy, expected in (("teacher", teacher), ("student", student)):
        found = network_of_run(tmp_path / "larger", copy=copy)
        resized = with_image_size(expected._replace(params={"encoder": expected.params["encoder"]}), 48)
        assert_same_params(found.params, resized.params)


@pytest.mark.parametrize("format", [format for format in HELD if format != "torchvision"])
def test_features_at_the_native_and_at_another_size(format, tmp_path):
    """Equal at both; and at the other one where its positions were resampled for good."""
    ours, encode = made("registers"), _encode("registers")
    for size in (None, 48):
        write_network(ours, tmp_path / "one", format=format, image_size=size)
        back = read_network(tmp_path / "one")
        assert back.arguments["encoder"]["image_size"] == back.image_size == (size or 32)
        write_network(back, tmp_path / "two", format=format)
        assert_same_files(tmp_path / "one", tmp_path / "two")
        for side in (32, 48) if size is None else (48,):
            images = np.random.default_rng(side).normal(size=(2, side, side, 3)).astype(np.float32)
            expected = encode(ours.params["encoder"], images)
            params = back.params["encoder"] | {"mask": ours.params["encoder"]["mask"]}  # which features have no use for
            found = (encode if size is None else _encode("registers", size))(params, images)
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 if format == "timm" else 0)


@functools.cache
def _encode(name, size=None):
    arguments = made(name).arguments["encoder"] | ({"image_size": size} if size else {})
    return jax.jit(lambda params, images: model(arguments)(params, images)[:2])


def test_onnx_of_what_was_read_is_the_same(tmp_path):
    pytest.importorskip("onnx")
    for name in ("registers", "bottleneck"):
        write_network(made(name), tmp_path / "weights.safetensors", format="safetensors")
        for i, given in enumerate((made(name), read_network(tmp_path / "weights.safetensors"))):
            write_network(given, tmp_path / f"{i}", format="onnx", dtype="float16")
        assert_same_files(tmp_path / "0", tmp_path / "1")
