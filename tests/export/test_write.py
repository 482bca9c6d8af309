"""Files are whole or not there, and bad requests are told in one sentence."""

import importlib.util
import os
import resource
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from released import DECODER, HEAD, RESNET, VIT, model, network
from safetensors.numpy import load_file

from ssljax import weight_arguments
from ssljax.checkpoint import Checkpoints
from ssljax.errors import InputError
from ssljax.export import export_encoder, read_network, write_network
from ssljax.export.formats import FORMATS, READABLE
from ssljax.export.names import vit_from_torch
from ssljax.export.runs import write_run
from ssljax.objectives.base import Encoder

PLACES = [(format, f"weights{suffix}") for format, kind in FORMATS.items() for suffix in ("", *kind.suffixes)]
PLACES = [(format, name) for format, name in PLACES if not name.endswith(".pth")]


def vit(**arguments):
    return network(encoder=VIT | arguments)


def encoder(**arguments):
    made = model(VIT | arguments)
    return Encoder(made, made.init(jax.random.key(0)))


def of(format):
    """Return a network that the format can hold."""
    return network(encoder=RESNET) if format == "torchvision" else vit()


def bytes_in(place):
    """Return what a folder holds, by name, hidden files too."""
    return {str(file.relative_to(place)): file.read_bytes() for file in place.rglob("*") if file.is_file()}


def test_file_holds_the_parameters(tmp_path):
    ours, path = encoder(), tmp_path / "weights.safetensors"
    path.write_text("an older file")
    export_encoder(ours, path)
    jax.tree.map(np.testing.assert_array_equal, vit_from_torch(load_file(path)), dict(ours.params))
    assert list(tmp_path.iterdir()) == [path]


def test_fixed_positions_are_written_out_and_resampled(tmp_path):
    ours, path = encoder(positions="sincos"), tmp_path / "weights.safetensors"
    for size, side in ((None, 4), (48, 6)):
        export_encoder(ours, path, image_size=size)
        expected = ours.model(ours.params, (side, side), method="positions")
        np.testing.assert_allclose(load_file(path)["pos_embed"][0], expected, rtol=0, atol=3e-6)


def test_heads_come_with_the_encoder_where_they_are_asked_for(tmp_path):
    made = network(encoder=VIT, head=HEAD)
    ours = encoder()._replace(heads={"head": (model(HEAD), made.params["head"])})
    for heads in (False, True):
        export_encoder(ours, tmp_path / "weights.safetensors", heads=heads)
        assert ("head" in read_network(tmp_path / "weights.safetensors").params) == heads


@pytest.fixture
def small_disk():
    """Let no file grow beyond some bytes from now on; the error is as a full disk's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize(("format", "name"), PLACES)
def test_a_failed_write_leaves_what_was_there(format, name, tmp_path, small_disk):
    if format == "onnx":
        pytest.importorskip("onnx")
    path, ours = tmp_path / name, of(format)
    write_network(ours, path, format=format)
    before = bytes_in(tmp_path)
    small_disk(20_000)
    with pytest.raises(InputError, match=rf"{path}[^ ]* cannot be written: .*(too large|space)"):
        write_network(ours, path, format=format, dtype="float32")
    small_disk(resource.RLIM_INFINITY)
    assert bytes_in(tmp_path) == before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), InputError("the disk is full")])
def test_a_failed_run_leaves_nothing(error, tmp_path, monkeypatch):
    def full(checkpoints, *_):
        raise error

    monkeypatch.setattr(Checkpoints, "wait", full)
    with pytest.raises(InputError, match=r"run cannot be written: No space left|^the disk is full"):
        write_run(vit(), tmp_path / "run", "weights.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("format", "name"), [place for place in PLACES if "." not in place[1]])
def test_a_folder_is_replaced_if_it_is_an_export_alone(format, name, tmp_path):
    if format == "onnx":
        pytest.importorskip("onnx")
    path, ours = tmp_path / name, of(format)
    path.mkdir()
    for _ in range(2):  # an empty folder, and an export
        write_network(ours, path, format=format)
    (path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"weights holds notes.txt, which is none of an export's files; name another"):
        write_network(ours, path, format=format)
    assert (path / "notes.txt").read_text() == "mine"


def test_a_folder_of_others_is_never_replaced(tmp_path):
    """One that a library wrote, with all of an export's names, too."""
    for names in (["config.json"], ["README.md", "model.safetensors", "config.json"]):
        folder = tmp_path / f"{len(names)}"
        folder.mkdir()
        for name in names:
            (folder / name).write_text("another's")
        with pytest.raises(InputError, match="no model card says that it is our export; name another folder"):
            write_network(vit(), folder)
        assert {file.read_text() for file in folder.iterdir()} == {"another's"}


@pytest.mark.parametrize(("format", "name"), PLACES)
def test_places_that_cannot_be_written(format, name, tmp_path):
    if format == "onnx":
        pytest.importorskip("onnx")
    ours = of(format)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=rf"file/{name} cannot be written: "):
        write_network(ours, tmp_path / "file" / name, format=format)
    other = tmp_path / name
    other.mkdir() if other.suffix else other.write_text("mine")
    with pytest.raises(InputError, match=f"{name} is a f.* where a f.* should go; name another place"):
        write_network(ours, other, format=format)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(["file", name])
    if Path("/proc").is_dir():  # where not even root makes files
        with pytest.raises(InputError, match=rf"/proc/{name}[^ ]* cannot be written: "):
            write_network(ours, Path("/proc") / name, format=format)


def test_the_command_line_knows_the_formats():
    assert set(weight_arguments.WRITTEN) == set(FORMATS)
    assert set(weight_arguments.READ) == {"auto", *READABLE}


def test_bad_requests(tmp_path, monkeypatch):
    ours = encoder()
    for name, format, message in (
        ("weights.npz", "dino", "format 'dino' is a file ending in .safetensors or .pth, or a folder"),
        ("weights.safetensors", "transformers", "format 'transformers' is a folder; give such"),
        ("weights.safetensors", "jepa", "format 'jepa' is unknown: use one of dino, timm"),
    ):
        with pytest.raises(InputError, match=message):
            export_encoder(ours, tmp_path / name, format=format)
    for arguments, message in (
        (dict(dtype="int8"), "dtype 'int8' is unknown"),
        (dict(image_size=33), "patch size 8 does not divide"),
        (dict(format="timm", check=True), "--check is for the formats dino, transformers, onnx, not 'timm'"),
        (dict(dtype="float16", check=True), "--check compares float32, and --dtype is float16"),
    ):
        with pytest.raises(InputError, match=message):
            export_encoder(ours, tmp_path / "weights", **arguments)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"\.pth needs PyTorch, which is not installed: pip install"):
        export_encoder(ours, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="--check needs torch, which is not installed: pip install"):
        export_encoder(ours, tmp_path / "weights.safetensors", check=True)
    with pytest.raises(InputError, match="format 'onnx' needs onnx, which is not installed: pip install"):
        export_encoder(ours, tmp_path / "weights.onnx", format="onnx")
    assert not list(tmp_path.iterdir())


def test_sizes_that_cannot_be_resampled(tmp_path):
    for ours, message in (
        (network(encoder=RESNET), "a ResNet has no positions to resample"),
        (network(encoder=VIT, decoder=DECODER), "a decoder goes with the size that it was trained on"),
    ):
        with pytest.raises(InputError, match=message):
            write_network(ours, tmp_path / "weights.npz", format="npz", image_size=64)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(("format", "name"), PLACES)
def test_what_is_not_finite_is_not_written(format, name, value, tmp_path):
    ours = of(format)
    ours.params["encoder"]["norm"]["bias"][3] = value
    with pytest.raises(InputError, match=r"to be written has weights that are not finite \(1 of .*encoder/norm/bias"):
        write_network(ours, tmp_path / name, format=format)
    assert not list(tmp_path.iterdir())


def test_a_value_beyond_a_half_is_told(tmp_path):
    ours = vit()
    ours.params["encoder"]["norm"]["bias"][3] = 1e5
    with pytest.raises(InputError, match="norm.bias has values beyond float16; write bfloat16 or float32"):
        write_network(ours, tmp_path / "weights", dtype="float16")
    assert not list(tmp_path.iterdir())
    write_network(ours, tmp_path / "weights", dtype="bfloat16")
    assert os.listdir(tmp_path) == ["weights"]


def test_folders_on_the_way_are_made_and_go_with_a_failure(tmp_path):
    ours, path = vit(), tmp_path / "a" / "b" / "weights.safetensors"
    with pytest.raises(InputError, match="b/weights.safetensors: the format 'transformers' is a folder"):
        write_network(ours, path, format="transformers")
    with pytest.raises(InputError, match="for a ResNet, and the encoder is a 'vit'"):
        write_network(ours, path, format="torchvision")
    assert not list(tmp_path.iterdir())
    write_network(ours, path)
    assert bytes_in(tmp_path).keys() == {"a/b/weights.safetensors"}
