"""Runs begin from weights: every array where it belongs, everything told, nothing written where they don't fit."""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from released import DECODER, HEAD, RESNET, VIT, network

from ssljax import build, configuration, mesh, step
from ssljax.errors import InputError
from ssljax.export import files, mae_names, official, write_network
from ssljax.export.initial import begin, read_start
from ssljax.export.runs import write_run
from ssljax.models.pure import separate
from ssljax.ops.positions import resample_positions
from ssljax.starts import read_record
from ssljax.train import train

ENCODER = VIT | dict(width=32, heads=4)
DINO_HEAD = HEAD | dict(width=32, hidden=32, bottleneck=16, prototypes=64)


def smoke(recipe, **changes):
    config = configuration.load(f"configs/{recipe}.py:smoke")
    config.unlock()
    config.update_from_flattened_dict(changes)
    return config


def started(config, place, devices=None):
    """Return the state that a run begins with, the one that the seed draws, and what is told."""
    devices = devices or mesh.make_mesh()
    objective, optimizer = build.objective(config), build.optimizer(config)
    abstract, _ = step.abstract_state(objective, optimizer, devices)
    start = read_start(str(place), objective, abstract)
    with jax.set_mesh(devices):
        drawn = step.initial_state(objective, optimizer, config.seed, devices)
        return begin(start, drawn), drawn, "\n".join(start.told)


def assert_same(tree, expected):
    ours, theirs = (traverse_util.flatten_dict(part, sep="/") for part in (tree, expected))
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    """A network of DINO's, and its file."""
    weights, path = network(encoder=ENCODER, head=DINO_HEAD), tmp_path_factory.mktemp("dino") / "dino.safetensors"
    write_network(weights, path)
    return weights, path


@pytest.mark.parametrize("shape", ["", "data=2,fsdp=4"])
def test_student_and_teacher_begin_with_the_weights_on_any_mesh(dino, shape):
    weights, path = dino
    state, drawn, told = started(smoke("dino"), path, mesh.make_mesh(shape))
    assert_same(state.params, weights.params)
    assert_same(state.state["teacher"], weights.params)
    assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(lambda x: x.sharding, drawn)
    assert [line.split()[0] for line in told.splitlines()] == ["matched"] * 4
    count = sum(leaf.size for leaf in jax.tree.leaves(weights.params["head"]))
    assert f"teacher's head: 7 arrays, {count:,} parameters" in told


def test_each_copy_of_a_training_checkpoint_goes_to_its_own(tmp_path):
    copies = {name: network(seed, encoder=ENCODER, head=DINO_HEAD) for seed, name in enumerate(("student", "teacher"))}
    state = {f"{name}.{key}": a for name, copy in copies.items() for key, a in official.to_state(copy).items()}
    files.write(state | {"dino_loss.center": np.zeros((1, 64), np.float32)}, tmp_path / "all.npz", {})
    state, _, told = started(smoke("dino"), tmp_path / "all.npz")
    assert_same(state.params, copies["student"].params)
    assert_same(state.state["teacher"], copies["teacher"].params)
    assert "dino_loss" in told and "heads" in told  # what was left out, and what was assumed


def test_each_copy_of_a_run_goes_to_its_own(tmp_path):
    """Of an imported one; the student of a run of DINO's begins with the student."""
    copies = {name: network(seed, encoder=ENCODER, head=DINO_HEAD) for seed, name in enumerate(("student", "teacher"))}
    both = copies["teacher"]._replace(twin=copies["student"].params, averaged=True)
    write_run(both, tmp_path / "run", "somewhere")
    state, _, _ = started(smoke("dino"), tmp_path / "run")
    assert_same(state.params, copies["student"].params)
    assert_same(state.state["teacher"], copies["teacher"].params)


@pytest.mark.parametrize("recipe", ["dino", "mocov3"])
def test_a_run_of_a_resnet_gives_both_copies(recipe, monkeypatch, tmp_path):
    """It keeps one set of statistics for the two."""
    resnet = dict(name="resnet", depth=18, blocks=(1, 1), width_multiplier=0.125)
    config = smoke(recipe)
    config.models.encoder, config.optimizer.freeze = resnet, ""
    objective, optimizer = build.objective(config), build.optimizer(config)
    shapes = jax.eval_shape(objective.init, jax.random.key(0))
    random = np.random.default_rng(0)
    params, kept = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape), leaf.dtype), shapes)
    run = build.Restored(config, objective, step.TrainState(jnp.zeros((), jnp.int32), params, kept, None))
    monkeypatch.setattr(build, "restore", lambda workdir, at=None: run)
    (tmp_path / "checkpoints").mkdir()
    abstract, _ = step.abstract_state(objective, optimizer, mesh.make_mesh())
    start = read_start(str(tmp_path), objective, abstract)
    assert_same(traverse_util.unflatten_dict(start.params), params)
    planted = traverse_util.unflatten_dict(start.state)
    assert_same(planted["teacher"], kept["teacher"])
    assert_same(planted["statistics"], kept["statistics"])


def test_positions_are_resampled_by_the_rule_of_the_weights(dino):
    weights, path = dino
    config = smoke("dino", **{"views.global_size": 48, "models.encoder.image_size": 48})
    state, _, told = started(config, path)
    assert "resized    encoder/position: 4x4 patches to 6x6" in told
    old = jnp.asarray(weights.params["encoder"]["position"])
    for part in (state.params, state.state["teacher"]):
        new = part["encoder"]["position"]
        np.testing.assert_array_equal(new[0], old[0])
        np.testing.assert_allclose(new[1:], resample_positions(old[1:], (4, 4), (6, 6), offset=0.1), atol=1e-6)


def test_what_is_new_or_left_out_is_told(dino, tmp_path):
    weights, path = dino
    config = smoke("dinov2", **{"models.encoder.layer_scale": None, "models.encoder.registers": 2})
    config.models.head.prototypes = 32
    state, drawn, told = started(config, path)
    for line in ("new        encoder/mask", "new        encoder/register", "skipped    head", "[16, 64]", "[16, 32]"):
        assert line in told
    assert_same(state.params["head"], drawn.params["head"])
    np.testing.assert_array_equal(state.params["encoder"]["register"], drawn.params["encoder"]["register"])
    np.testing.assert_array_equal(state.params["encoder"]["cls"], weights.params["encoder"]["cls"])

    with pytest.raises(InputError, match="not the config's fixed sines and cosines .*positions=learned"):
        started(smoke("mae"), path)
    state, drawn, told = started(smoke("mae", **{"models.encoder.positions": "learned"}), path)
    assert "new        decoder" in told and "skipped    head: the objective has none" in told
    assert "differs    encoder's position_offset: 0.1 with the weights, 0.0 in the config" in told
    assert_same(state.params["decoder"], drawn.params["decoder"])


def test_fixed_positions_need_no_place(tmp_path):
    weights = network(encoder=ENCODER | dict(position_offset=0.0))
    fixed = {"position": mae_names.fixed_positions(32, 4)}
    weights = weights._replace(params={"encoder": weights.params["encoder"] | fixed})
    write_network(weights, tmp_path / "mae.safetensors")
    _, _, told = started(smoke("mae"), tmp_path / "mae.safetensors")
    assert "skipped    encoder/position: the weights' are the fixed sines and cosines" in told


def test_lengths_of_prototypes_are_learned_on_from_one(dino):
    weights, path = dino
    state, _, told = started(smoke("dino", **{"models.head.norm_last_layer": False}), path)
    np.testing.assert_array_equal(state.params["head"]["last"]["gain"], np.ones(64))
    np.testing.assert_array_equal(state.params["head"]["last"]["kernel"], weights.params["head"]["last"]["kernel"])
    assert "skipped" not in told


def test_a_resnet_brings_its_statistics(tmp_path):
    weights = network(encoder=RESNET | dict(blocks=[1, 1]))
    write_network(weights, tmp_path / "resnet", format="torchvision")
    state, _, told = started(smoke("simclr"), tmp_path / "resnet")
    model = build.objective(smoke("simclr")).encoder
    params, statistics = separate(model, weights.params["encoder"])
    assert_same(state.params["encoder"], params)
    assert_same(state.state["statistics"], statistics)
    assert "new        projector" in told


def test_mae_brings_its_decoder(tmp_path):
    roles = dict(encoder=ENCODER | dict(position_offset=0.0), decoder=DECODER | dict(width=32, depth=1, heads=4))
    weights = network(**roles)
    write_network(weights, tmp_path / "mae", format="transformers")
    state, _, told = started(smoke("mae", **{"models.encoder.positions": "learned"}), tmp_path / "mae")
    assert_same(state.params["decoder"], weights.params["decoder"])
    assert "matched    decoder" in told


@pytest.mark.parametrize(
    ("recipe", "changes", "sentence"),
    [
        (
            "dino",
            {"models.encoder.patch_size": 4},
            r"patch/kernel it has \[192, 32\], and .* \[48, 32\]; set .*patch_size=8",
        ),
        (
            "dino",
            {"models.encoder.heads": 2},
            "of 4 heads in its encoder, and the config.s has 2: set --config.models.encoder.heads=4",
        ),
        ("dino", {"models.encoder.depth": 3}, r"\[2, .* \[3, .*depth=2"),
        ("dino", {"models.encoder.mlp": "swiglu"}, "mlp gelu, and the config's has swiglu"),
        ("dino", {"models.encoder.layer_scale": 0.1}, "scale1/gamma it has none of it"),
        ("simclr", {}, "holds a vit, and the config's encoder is a resnet"),
    ],
)
def test_another_architecture_is_refused(dino, recipe, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        started(smoke(recipe, **changes), dino[1])


@pytest.mark.long
def test_a_run_begins_from_weights_and_goes_on_without_them(dino, tmp_path, capsys):
    path, workdir = tmp_path / "own.safetensors", tmp_path / "run"
    config = configuration.load("toy", [f"--config.init_from={path}", "--config.epochs=1"])
    with pytest.raises(InputError, match="own.safetensors does not exist"):
        train(config, workdir)
    assert not workdir.exists()
    heads = {role: build.model_arguments(getattr(build.objective(config), role)) for role in ("encoder", "head")}
    weights = network(encoder=ENCODER | dict(heads=heads["encoder"]["heads"]), head=DINO_HEAD | _sizes(heads["head"]))
    write_network(weights, path)
    train(config, workdir)
    told = capsys.readouterr().err
    assert f"Starting from {path}:" in told and "matched    teacher's encoder" in told
    run = build.restore(workdir)
    assert run.config.init_from == str(path)
    (noted,) = read_record(workdir)
    assert noted["init_from"] == {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}

    other = configuration.load("toy", ["--config.epochs=1"])
    train(other, tmp_path / "other")
    losses = [
        json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["loss"]
        for folder in (workdir, tmp_path / "other")
    ]
    assert losses[0] != losses[1]

    path.unlink()
    train(config, workdir)  # nothing is left to do, and nothing asks for the file
    assert "Starting from" not in capsys.readouterr().err


def _sizes(arguments):
    return {
        name: arguments[name] for name in ("hidden", "bottleneck", "prototypes", "norm_last_layer") if name in arguments
    }
