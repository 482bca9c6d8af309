"""Files of torch.save: tensors by name, and nothing run."""

import argparse
import collections
import contextlib
import importlib.util
import json
import os
import pathlib
import pickle
import re
import warnings
import zipfile

import ml_dtypes
import numpy as np
import pytest
from released import DECODER, HEAD, RESNET, VIT, assert_same_params, network

from ssljax.cli import main
from ssljax.errors import InputError
from ssljax.export import official, pickles, read_network, write_network

pytestmark = pytest.mark.long
torch = pytest.importorskip("torch")


class Malicious:
    """Runs a command where it is unpickled carelessly."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_get_names_and_the_rest_a_note(zipped, tmp_path):
    path = tmp_path / "checkpoint.pth"
    model = collections.OrderedDict({"module.weight": torch.arange(6.0).reshape(2, 3), "module.n": torch.tensor(7)})
    layer = torch.nn.Parameter(torch.ones(2))
    content = {
        "student": model,
        "half": {"a": torch.tensor([1.5, -2.0], dtype=torch.bfloat16), "b": torch.tensor([0.5], dtype=torch.float16)},
        "optimizer": {"state": {0: {"exp_avg": layer}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]},
        "several": [torch.zeros(1), (torch.ones(1),)],
        "epoch": 3,
        "args": argparse.Namespace(arch="vit_small", patch_size=16),
    }
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    state, notes = pickles.read_pth(path)
    names = "student.module.weight student.module.n half.a half.b optimizer.state.0.exp_avg several.0 several.1.0"
    assert list(state) == names.split()
    np.testing.assert_array_equal(state["student.module.weight"], np.arange(6, dtype=np.float32).reshape(2, 3))
    assert state["student.module.n"].dtype == np.int64
    for name, values, dtype in (("half.a", [1.5, -2.0], ml_dtypes.bfloat16), ("half.b", [0.5], np.float16)):
        assert state[name].dtype == dtype
        np.testing.assert_array_equal(state[name], values)
    assert notes == ("What is no tensor (optimizer, epoch, args): weights alone are read.",)


@pytest.mark.parametrize("kind", ["zipped", "legacy", "plain pickle"])
def test_code_is_refused_and_not_run(kind, tmp_path):
    path, trace = tmp_path / "checkpoint.pth", tmp_path / "trace"
    content = {"weight": torch.ones(2), "other": Malicious(f"touch {trace}")}
    if kind == "plain pickle":
        path.write_bytes(pickle.dumps(content["other"], protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zipped")
    with pytest.raises(InputError, match=r"checkpoint.pth wants to run posix.system, .*it is refused"):
        pickles.read_pth(path)
    assert not trace.exists()
    if kind == "zipped":
        torch.load(path, weights_only=False)
        assert trace.exists()  # it is malicious indeed


def test_a_namespace_hides_no_code(tmp_path):
    path, trace = tmp_path / "checkpoint.pth", tmp_path / "trace"
    torch.save({"weight": torch.ones(2), "args": argparse.Namespace(x=Malicious(f"touch {trace}"))}, path)
    with pytest.raises(InputError, match="wants to run posix.system"):
        pickles.read_pth(path)
    assert not trace.exists()
    torch.save({"args": argparse.Namespace()}, path)
    with pytest.raises(pickle.UnpicklingError):  # no other reader of the process has become less strict
        torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    "kind", ["HTML", "TorchScript", *(f"{kind} {i}" for kind in ("malicious", "NumPy", "plain") for i in range(6))]
)
def test_refusals_are_our_own_and_without_warnings(kind, tmp_path):
    path, trace = tmp_path / "checkpoint.pth", tmp_path / "trace"
    kind, protocol = kind.split()[0], kind[-1]
    pickled = {"malicious": Malicious(f"touch {trace}"), "NumPy": np.zeros(3), "plain": {"weight": 1}}
    if kind == "TorchScript":
        with warnings.catch_warnings(action="ignore"):  # it is deprecated
            torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(path)
    elif kind == "HTML":
        path.write_text("<!DOCTYPE html><html><body>Not found</body></html>")
    else:
        path.write_bytes(pickle.dumps(pickled[kind], protocol=int(protocol)))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(InputError) as caught:
            pickles.read_pth(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and not warned
    assert "weights_only" not in message and "torch.load" not in message
    assert ("refused" in message) == (kind not in ("HTML", "plain"))
    assert not trace.exists()


def test_paths_are_harmless_and_never_made(tmp_path):
    path = tmp_path / "checkpoint.pth"
    paths = [pathlib.Path("/data"), pathlib.PurePosixPath("a/b"), pathlib.PureWindowsPath("c:/d")]
    torch.save({"weight": torch.ones(2), "args": argparse.Namespace(output=paths[0]), "paths": paths}, path)
    state, notes = pickles.read_pth(path)
    assert list(state) == ["weight"] and notes == ("What is no tensor (args, paths): weights alone are read.",)


def test_files_that_are_none(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.ones(1000)}, path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-30], b"", b"no pickle at all", os.urandom(1000)):
        path.write_bytes(content)
        with pytest.raises(InputError, match="weights.pth is no file of torch.save that can be read: "):
            pickles.read_pth(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello", "world")
    with pytest.raises(InputError, match="no file of torch.save"):
        pickles.read_pth(path)
    with pytest.raises(InputError, match="no file of torch.save.*No such file"):
        pickles.read_pth(tmp_path / "missing.pth")


def test_contents_that_are_none(tmp_path):
    path = tmp_path / "weights.pth"
    endless = {}
    endless["again"] = endless
    for content, message in (
        ({"epoch": 3}, "holds no tensors"),
        (endless, "nests more than 16"),
        ({"a.b": torch.ones(1), "a": {"b": torch.ones(1)}}, "two tensors of the name 'a.b'"),
        ({"a": torch.ones(2, 2).to_sparse()}, "holds a, a tensor that NumPy has not"),
    ):
        torch.save(content, path)
        with pytest.raises(InputError, match=message):
            pickles.read_pth(path)


def test_torch_missing_or_unsafe(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "2.5.1+cpu")
        with pytest.raises(InputError, match=r"PyTorch 2.5.1\+cpu does not read pickles safely"):
            pickles.read_pth(tmp_path / "weights.pth")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"\.pth needs PyTorch, which is not installed"):
        pickles.read_pth(tmp_path / "weights.pth")


NETWORKS = {
    "vit": dict(encoder=VIT | dict(registers=2, mask_token=True, position_offset=0.0, position_antialias=True)),
    "head": dict(encoder=VIT, head=HEAD | dict(norm_last_layer=False)),
    "mae": dict(encoder=VIT | dict(position_offset=0.0), decoder=DECODER),
    "resnet": dict(encoder=RESNET),
}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_there_and_back(name, dtype, tmp_path):
    """The bytes are the same whatever the file's name; what the arrays don't say is assumed, as in any .pth file."""
    ours, one, two = network(**NETWORKS[name]), tmp_path / "one.pth", tmp_path / "the other.pth"
    write_network(ours, one, dtype=dtype)
    back = read_network(one)
    write_network(back, two, dtype=dtype)
    assert one.read_bytes() == two.read_bytes()
    if dtype == "float32":
        assert_same_params(back.params, ours.params)
    tensors = torch.load(one, weights_only=True)
    assert {tensor.dtype for tensor in tensors.values()} - {torch.int64} == {getattr(torch, dtype)}


def test_torch_files_without_a_folder_of_their_own(tmp_path):
    """As the hub has older weights: pytorch_model.bin, whole or in shards."""
    ours = network(**NETWORKS["head"])
    state = {name: torch.tensor(array) for name, array in official.to_state(ours).items()}
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert_same_params(read_network(tmp_path).params, ours.params)
    (tmp_path / "pytorch_model.bin").unlink()
    index = {}
    for i in range(2):
        names = sorted(state)[i::2]
        torch.save({name: state[name] for name in names} | {"epoch": 3}, tmp_path / f"part-{i}.bin")
        index |= dict.fromkeys(names, f"part-{i}.bin")
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    back = read_network(tmp_path)
    assert_same_params(back.params, ours.params)
    assert "What is no tensor (epoch): weights alone are read." in back.notes


@pytest.mark.parametrize("zipped", [True, False])
def test_damage_anywhere_is_told_or_harmless(zipped, tmp_path):
    path = tmp_path / "weights.pth"
    state = {name: torch.tensor(array) for name, array in official.to_state(network(encoder=RESNET)).items()}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    content, random = path.read_bytes(), np.random.default_rng(0)
    for i in range(100):
        at, damaged = random.integers(4000 if i % 2 else len(content), size=2), bytearray(content)
        if i % 3 == 0:
            damaged[at[0] : at[0] + random.integers(1, 20)] = b""
        elif i % 3 == 1:
            damaged[at[0]], damaged[at[1]] = random.integers(256, size=2)
        else:
            del damaged[at[0] :]
        path.write_bytes(damaged)
        with contextlib.suppress(InputError):
            read_network(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state["norm.bias"].fill_(float("nan")), "not finite"),
        (lambda state: state.pop("norm.bias"), "lack norm.bias"),
        (lambda state: state.update({"neck.weight": torch.ones(3)}), "'neck.weight' is none of"),
        (lambda state: state.update({"norm.bias": torch.ones(47)}), r"holds \[47\] as encoder/norm/bias"),
        (lambda state: state.update({"norm.bias": torch.ones(48, dtype=torch.complex64)}), "norm.bias in complex64"),
        (lambda state: state.update({"more": Malicious("touch trace")}), "wants to run posix.system"),
    ],
)
def test_bad_weights_make_no_run(change, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    state = {name: torch.tensor(array) for name, array in official.to_state(network(encoder=VIT)).items()}
    change(state)
    torch.save(state, path)
    assert main(["import", "--from", f"{path}", "--output", f"{tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"ssljax: {path}") and error.count("\n") == 1 and re.search(message, error)
    assert os.listdir(tmp_path) == ["weights.pth"]
