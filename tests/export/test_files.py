"""Whatever is wrong with files of weights is told in one sentence, and nothing is run, written or left behind."""

import copy
import json
import re
import shutil
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
from released import HEAD, RESNET, VIT, assert_same_params, network
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ssljax.cli import main
from ssljax.errors import InputError
from ssljax.export import files, read_network, write_network

WEIGHTS = "weights.safetensors"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Weights of every kind that is read without PyTorch, by name; never changed in place."""
    folder = tmp_path_factory.mktemp("written")
    ours = network(encoder=VIT)
    with_head = network(encoder=VIT, head=HEAD)._replace(
        source={"objective": "dino", "step": 1, "samples": 2, "data": {}, "metrics": {"knn": {"top1": 0.5}}}
    )
    write_network(with_head, folder / WEIGHTS)
    write_network(ours, folder / "half.safetensors", dtype="bfloat16")
    write_network(with_head, folder / "weights.npz", format="npz")
    write_network(network(encoder=RESNET), folder / "resnet.safetensors", format="torchvision")
    for format in ("timm", "transformers"):
        write_network(ours, folder / format, format=format)
        anothers(folder / format, folder / f"another's {format}")
    shards(folder / "another's transformers", folder / "shards")
    return folder


def anothers(folder, new):
    """Copy a folder without what `ssljax export` says in its metadata."""
    shutil.copytree(folder, new)
    save_file(load_file(folder / "model.safetensors"), new / "model.safetensors", metadata={"format": "pt"})


def shards(folder, new):
    """Copy a folder, its weights in two files and an index."""
    shutil.copytree(folder, new)
    state = load_file(new / "model.safetensors")
    (new / "model.safetensors").unlink()
    index = {}
    for i, names in enumerate((sorted(state)[::2], sorted(state)[1::2])):
        file = f"model-{i}.safetensors"
        save_file({name: state[name] for name in names}, new / file)
        index |= dict.fromkeys(names, file)
    (new / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def copied(place, folder):
    """Return a copy in a folder that holds nothing else."""
    new = folder / place.name
    return shutil.copytree(place, new) if place.is_dir() else shutil.copy(place, new)


def told(place, *arguments, **keywords):
    """Return the one sentence with which weights are refused."""
    with pytest.raises(InputError) as caught:
        read_network(place, *arguments, **keywords)
    message = str(caught.value)
    assert str(place) in message and "\n" not in message.strip(), message
    return message


def with_record(path, change):
    """Change in place what a file of `ssljax export` says of itself; `change` may return another text."""
    with safe_open(path, framework="numpy") as file:
        record = json.loads(file.metadata()[files.RECORD])
    text = change(record) or json.dumps(record)
    save_file(load_file(path), path, metadata={"format": "pt", files.RECORD: text})


def with_state(path, change):
    """Change in place the arrays of another's file."""
    state = load_file(path)
    change(state)
    save_file(state, path)


def with_json(path, change):
    value = json.loads(path.read_text())
    path.write_text(change(value) or json.dumps(value))


def assert_verbs_refuse(place, folder, capsys):
    """The verbs that take weights end with 2 and one line, and leave everything as it was."""
    before = sorted(folder.rglob("*"))
    for verb in (
        ["import", "--from", f"{place}", "--output", f"{folder / 'run'}"],
        ["evaluate", "health", "--weights", f"{place}", "--data", f"{folder / 'data'}"],
        ["show", "attention", f"{folder / 'image.png'}", "--weights", f"{place}"],
        ["features", f"{folder}", "--workdir", f"{place}", "--output", f"{folder / 'features.npz'}"],
    ):
        assert main(verb) == 2
        out, error = capsys.readouterr()
        assert not out and error.startswith(f"ssljax: {place}") and error.count("\n") == 1, (verb, error)
    assert sorted(folder.rglob("*")) == before


def test_what_was_written_is_read(written):
    ours = read_network(written / "another's transformers")
    assert_same_params(read_network(written / "shards").params, ours.params)
    assert read_network(written / "shards").notes == ours.notes


@pytest.mark.parametrize("name", [WEIGHTS, "half.safetensors", "weights.npz", "resnet.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.9999])
def test_cut_short(name, share, written, tmp_path):
    path = copied(written / name, tmp_path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert re.search("is no .(npz|safetensors) file .*that can be read", told(path))


def test_a_shard_cut_short(written, tmp_path):
    place = copied(written / "shards", tmp_path)
    shard = place / "model-1.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert told(place).startswith(f"{shard} is no .safetensors file that can be read")


@pytest.mark.parametrize("content", [b"", b"not weights\n", bytes(range(256)) * 40, b"\x80\x02}q\x00."])
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.npz", "model.safetensors.index.json"])
def test_other_files_of_that_name(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert "that can be read" in told(tmp_path / name)


def test_places_without_weights(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "weights.txt").write_text("hello")
    assert "holds no weights; a folder of weights has one of model.safetensors, " in told(tmp_path)
    assert "does not exist; name a file of weights" in told(tmp_path / "nowhere")
    assert "ends in none of .safetensors, .npz, .pth" in told(tmp_path / "weights.txt")
    assert_verbs_refuse(tmp_path / "weights.txt", tmp_path, capsys)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (WEIGHTS, "head.last_layer.weight_v"),
        ("resnet.safetensors", "bn1.running_mean"),
        ("another's timm", "pos_embed"),
        ("another's transformers", "embeddings.cls_token"),
        ("native.safetensors", "encoder.blocks.mlp.fc1.kernel"),
    ],
)
def test_integers_and_values_beyond_float32(place, name, written, tmp_path, recwarn):
    if place == "native.safetensors":
        path = tmp_path / place
        write_network(network(encoder=VIT), path, format="safetensors")
    else:
        path = copied(written / place, tmp_path)
    file = path / "model.safetensors" if path.is_dir() else path
    with safe_open(file, framework="numpy") as opened:
        metadata = opened.metadata()
    state = load_file(file)
    name = next(key for key in state if key.endswith(name))
    whole = state[name].astype(np.float64)
    for dtype in (np.int8, np.int64, np.bool_):
        save_file(state | {name: whole.astype(dtype)}, file, metadata=metadata)
        assert f"holds {name} in {np.dtype(dtype)}, and parameters are floating-point numbers" in told(path)
    save_file(state | {name: whole + 1e39}, file, metadata=metadata)
    assert f"holds {name} with values beyond float32" in told(path)
    save_file(state | {name: whole}, file, metadata=metadata)
    read_network(path)
    assert not recwarn.list


def test_wrong_format(written, tmp_path):
    assert "is of the format 'dino', not 'timm'; leave --format out" in told(written / WEIGHTS, "timm")
    for wrong in ("torchvision", "timm", "dino", "safetensors"):
        assert f"holds no network in the format {wrong!r}: " in told(written / "another's transformers", wrong)
    with pytest.raises(InputError, match="format 'onnx' is none that can be read: use auto or one of dino, timm"):
        read_network(written / WEIGHTS, "onnx")
    save_file({"some": np.zeros(3, np.float32)}, tmp_path / WEIGHTS)
    assert "holds no encoder that is known by its names (some, ...); the formats are dino, " in told(tmp_path / WEIGHTS)


def test_heads_that_cannot_be(written):
    assert read_network(written / "another's timm", heads=3).arguments["encoder"]["heads"] == 3
    assert "says of its encoder what no model can be: " in told(written / "another's timm", heads=5)
    assert "says of its encoder what no model can be: " in told(written / "resnet.safetensors", heads=2)


def change_array(name, value):
    def change(state):
        if value is None:
            del state[name]
        else:
            state[name] = value(state[name]) if name in state else value(None)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            change_array("norm.bias", lambda a: a * np.nan),
            r"not finite \(1 of 18 arrays of its encoder, encoder/norm/b",
        ),
        (change_array("norm.bias", lambda a: a + np.inf), r"not finite \(1 of 18 arrays"),
        (change_array("norm.bias", None), "lack norm.bias"),
        (change_array("cls_token", None), "lack cls_token"),
        (change_array("blocks.1.attn.qkv.bias", None), "qkv.bias for 1 of 2 blocks"),
        (change_array("norm.scale", lambda _: np.zeros(48, np.float32)), "'norm.scale' is none of"),
        (change_array("norm.bias", lambda _: np.zeros(47, np.float32)), r"holds \[47\] as encoder/norm/bias, but its"),
        (change_array("pos_embed", lambda a: a[:, :-1]), "15 positions besides that of CLS"),
        (change_array("pos_embed", lambda a: a[..., :-1].copy()), r"holds \[17, 47\] as encoder/position"),
        (change_array("norm.bias", lambda a: a.astype(np.complex64)), "norm.bias|can be read"),
    ],
)
def test_wrong_arrays(change, message, written, tmp_path, capsys):
    place = copied(written / "another's timm", tmp_path)
    with_state(place / "model.safetensors", change)
    assert re.search(message, told(place))
    assert_verbs_refuse(place, tmp_path, capsys)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(48, "S3"),
        np.zeros(48, np.complex64),
        np.zeros(48, np.dtype([("a", np.int32)])),
        np.zeros(48, "M8[s]"),
        np.zeros(48, "V2"),
    ],
)
def test_arrays_that_are_no_numbers(array, written, tmp_path):
    state = dict(np.load(written / "weights.npz")) | {"encoder.norm.bias": array}
    np.savez(tmp_path / "weights.npz", **state)
    assert "holds encoder.norm.bias in " in told(tmp_path / "weights.npz")


def test_pickles_in_npz_are_not_read(written, tmp_path):
    path, trace = tmp_path / "weights.npz", tmp_path / "trace"

    class Malicious:
        def __reduce__(self):
            return open, (str(trace), "w")

    state = dict(np.load(written / "weights.npz"))
    np.savez(path, **state, more=np.asarray([Malicious()], object))
    assert "is no .npz file of arrays that can be read (Object arrays cannot be loaded" in told(path)
    assert not trace.exists()
    np.save(tmp_path / "array.npy", np.zeros(3))
    path.write_bytes((tmp_path / "array.npy").read_bytes())
    assert "is no .npz file of arrays that can be read" in told(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "world")
    told(path)


def test_small_and_odd_arrays_in_half_precision(tmp_path):
    state = {"a": np.zeros((0, 3)), "b": np.asarray(1.5), "c": np.arange(6.0).reshape(2, 3)}
    state = {name: array.astype(ml_dtypes.bfloat16) for name, array in state.items()}
    save_file(state, tmp_path / WEIGHTS)
    found = files.read(tmp_path / WEIGHTS).state
    for name, array in state.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name].astype(np.float32), array.astype(np.float32))


def change_map(**entries):
    return lambda index: index["weight_map"].update(entries)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: "no JSON", "index.json is no JSON that can be read"),
        (lambda index: "[" * 100_000, "index.json is no JSON that can be read"),
        (lambda index: "[]", "index.json holds no JSON object"),
        (lambda index: index.clear(), "has no weight_map, which says where each array is"),
        (lambda index: index.update(weight_map={}), "has no weight_map"),
        (lambda index: index.update(weight_map=["model-0.safetensors"]), "has no weight_map"),
        (change_map(cls_token=3), "has no weight_map"),
        (change_map(cls_token=["a"]), "has no weight_map"),
        (change_map(cls_token="../weights.safetensors"), "names '../weights.safetensors', which is no file of its"),
        (change_map(cls_token="/etc/passwd"), "names '/etc/passwd', which is no file of its folder"),
        (change_map(cls_token=".."), "names '..', which is no file"),
        (change_map(cls_token="model-7.safetensors"), "names 'model-7.safetensors', which is no file of its folder"),
        (change_map(cls_token="model.safetensors.index.json"), "ends in none of"),
        (change_map(cls_token="again.safetensors"), "names 'model-0.safetensors', which holds .* a second time"),
        (change_map(cls_token="model-0.safetensors"), "names the array cls_token, which model-0.safetensors lacks"),
    ],
)
def test_bad_indices(change, message, written, tmp_path, capsys):
    place = copied(written / "shards", tmp_path)
    shutil.copy(written / WEIGHTS, tmp_path / WEIGHTS)
    shutil.copy(place / "model-0.safetensors", place / "again.safetensors")
    with_json(place / "model.safetensors.index.json", change)
    assert re.search(message, told(place))
    assert_verbs_refuse(place, tmp_path, capsys)


@pytest.mark.parametrize("format", ["timm", "transformers"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: "no JSON", "config.json is no JSON that can be read"),
        (lambda config: b"\xff\xfe".decode("latin-1"), "config.json is no JSON that can be read"),
        (lambda config: "3", "config.json holds no JSON object"),
    ],
)
def test_configs_that_are_none(change, message, format, written, tmp_path, capsys):
    place = copied(written / format, tmp_path)
    with_json(place / "config.json", change)
    assert re.search(message, told(place))
    assert_verbs_refuse(place, tmp_path, capsys)


def heads_of(config, heads):
    section = config.get("model_args", config)
    section["num_heads" if "model_args" in config else "num_attention_heads"] = heads


@pytest.mark.parametrize("whose", ["", "another's "])
@pytest.mark.parametrize("format", ["timm", "transformers"])
def test_configs_that_disagree(whose, format, written, tmp_path):
    """With the file's own metadata, or by themselves."""
    place = copied(written / f"{whose}{format}", tmp_path)
    for heads in (3, 5, "3", 1.5, [], None, 10**400):
        with_json(place / "config.json", lambda config, heads=heads: heads_of(config, heads))
        if whose and heads == 3:
            assert read_network(place).arguments["encoder"]["heads"] == 3
        else:
            assert "heads" in told(place)
    others = {"hidden_size": 64, "patch_size": [8, 4], "image_size": [[8], {}], "hidden_act": {}}
    others = {"embed_dim": 64, "patch_size": [8, 4], "img_size": [[8], {}], "depth": {}} if format == "timm" else others
    for key, value in others.items():
        shutil.copy(written / format / "config.json", place)
        with_json(place / "config.json", lambda c, entry={key: value}: c.get("model_args", c).update(entry))
        assert key in told(place)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: "{no JSON", "says in its metadata what is no JSON"),
        (lambda record: "[" * 100_000, "says in its metadata what is no JSON"),
        (lambda record: "[1]", "has no JSON object in its metadata"),
        (lambda record: record.pop("arguments") and None, "does not say in its metadata what it holds"),
        (lambda record: record.update(arguments=[]), "does not say in its metadata"),
        (lambda record: record.update(source=3), "does not say in its metadata"),
        (lambda record: record.update(format="onnx"), "says that its format is 'onnx', which cannot be read"),
        (lambda record: record.update(format=[]), r"says that its format is \[\]"),
        (lambda record: record.update(format="timm"), "holds no network in the format 'timm'"),
        (lambda record: record["arguments"].clear(), "does not say what its encoder is"),
        (lambda record: record["arguments"].update(encoder=[]), "does not say in its metadata"),
        (lambda record: record["arguments"].pop("head") and None, "holds the head but not what it is"),
        (lambda record: record["arguments"].update(views={"name": "vit"}), "its views is a 'vit', which is no such"),
        (lambda record: record["arguments"].update(decoder={"name": "vit"}), "its decoder is a 'vit', which is no su"),
        (lambda record: record["arguments"]["encoder"].update(name="os.system"), "its encoder is a 'os.system', which"),
        (lambda record: record["arguments"]["encoder"].update(name="antigravity.fly"), "is a 'antigravity.fly'"),
        (lambda record: record["arguments"]["encoder"].update(name=["vit"]), r"is a \['vit'\]"),
        (lambda record: record["arguments"]["encoder"].update(name="dino_head"), "is a 'dino_head'"),
        (lambda record: record["arguments"]["encoder"].update(width="48"), "its encoder has width '48', which cannot"),
        (lambda record: record["arguments"]["encoder"].update(heads=True), "has heads True"),
        (lambda record: record["arguments"]["encoder"].update(heads=5), "what no model can be: .*5"),
        (lambda record: record["arguments"]["encoder"].update(depth=3), r"holds \[2, .* but its encoder has \[3, "),
        (lambda record: record["arguments"]["encoder"].update(patch_size=0), "what no model can be"),
        (lambda record: record["arguments"]["encoder"].update(norm_eps=None), "has norm_eps None"),
        (lambda record: record["arguments"]["encoder"].update(rngs=3), "rngs"),
        (lambda record: record["arguments"]["encoder"].update(colour=3), "colour"),
        (lambda record: record["source"].update(step="many"), "does not say in its metadata"),
        (lambda record: record["source"].update(metrics={"knn": {"top1": "good"}}), "does not say in its metadata"),
        (lambda record: record["source"].pop("data"), "does not say in its metadata"),
    ],
)
def test_bad_records(change, message, written, tmp_path, capsys):
    """Nothing that a file names is imported."""
    path = copied(written / WEIGHTS, tmp_path)
    with_record(path, lambda record: (lambda text: text if isinstance(text, str) else None)(change(record)))
    assert re.search(message, told(path))
    assert "antigravity" not in sys.modules
    assert_verbs_refuse(path, tmp_path, capsys)


def test_our_names_without_a_record(written, tmp_path):
    state = dict(np.load(written / "weights.npz"))
    del state[files.RECORD]
    np.savez(tmp_path / "weights.npz", **state)
    assert "does not say what its encoder is; export it again" in told(tmp_path / "weights.npz")
    told(tmp_path / "weights.npz", heads=3)
    for more in ("bare", "encoder.norm", "encoder.norm.bias.more"):
        np.savez(tmp_path / "weights.npz", **state, **{more: np.zeros(3)})
        told(tmp_path / "weights.npz")


def read(place):
    """Return the network in weights that may be damaged, None where they are refused."""
    try:
        return read_network(place)
    except InputError:
        return None


KINDS = [WEIGHTS, "half.safetensors", "weights.npz", "resnet.safetensors", "transformers", "shards"]


@pytest.mark.parametrize("name", KINDS)
def test_damage_anywhere_is_told_or_harmless(name, written, tmp_path):
    """Bytes changed, cut out or cut off, half of them in the first 4,000, where names and shapes are."""
    place = copied(written / name, tmp_path)
    targets = [place] if place.is_file() else sorted(place.glob("*.json")) + sorted(place.glob("*.safetensors"))
    random = np.random.default_rng(0)
    for i in range(100):
        target = targets[i % len(targets)]
        content = target.read_bytes()
        length = min(len(content), 4000 if i % 2 else len(content))
        at, damaged = random.integers(length, size=3), bytearray(content)
        if i % 3 == 0:
            damaged[at[0] : at[0] + random.integers(1, 20)] = b""
        elif i % 3 == 1:
            damaged[at[0]], damaged[at[1]] = random.integers(256, size=2)
        else:
            del damaged[at[0] :]
        target.write_bytes(damaged)
        read(place)
        target.write_bytes(content)
    assert read(place)


ODD = [None, True, -1, 0, 3.7, 1e308, float("nan"), "x", "os.system", [], [[1]], {}, {"a": 1}, 10**30]


def leaves(tree, at=()):
    """Yield the path of everything in a JSON value."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*at, key)
        if isinstance(value, dict | list):
            yield from leaves(value, (*at, key))


def replaced(tree, path, value):
    tree = copy.deepcopy(tree)
    at = tree
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return tree


@pytest.mark.parametrize("name", [WEIGHTS, "resnet.safetensors", "another's timm", "another's transformers"])
def test_odd_values_of_records_and_configs_are_told_or_harmless(name, written, tmp_path):
    """What is taken can be written again."""
    place = copied(written / name, tmp_path)
    if place.is_file():
        with safe_open(place, framework="numpy") as file:
            values = json.loads(file.metadata()[files.RECORD])
    else:
        values = json.loads((place / "config.json").read_text())
    random, taken = np.random.default_rng(0), 0
    for path in leaves(values):
        if path[0] == "pretrained_cfg":
            continue  # which nothing here depends on
        for i in random.permutation(len(ODD))[:4]:
            changed = json.dumps(replaced(values, path, ODD[i]))
            if place.is_file():
                with_record(place, lambda record, text=changed: text)
            else:
                (place / "config.json").write_text(changed)
            found = read(place)
            taken += found is not None
            if found is not None and taken % 4 == 0:
                write_network(found, tmp_path / "again", format="npz")
