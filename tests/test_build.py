"""From config to objects: every key is used, every packaged recipe runs, and a user's own parts are found."""

import contextlib
import functools
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from videos import make_video

from data_prep import video
from ssljax import build, checkpoint, configuration, limits, mesh, step
from ssljax.errors import InputError
from ssljax.train import train

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("video")
    path = make_video(folder / "clip.mp4", frames=60)
    assert video.main([str(path), "--output", str(folder / "prepared"), "--every", "5"]) == 0
    return folder / "prepared" / "clip"


LONG = ("dino", "dinov2", "mocov3", "simclr")  # to compile
RECIPES = [pytest.param(path, marks=pytest.mark.long if path.stem in LONG else ()) for path in CONFIGS]


def names(path):
    return path.stem


def smoke(path, prepared):
    """Return the recipe's shortest variant on a video, or on toy images."""
    config = configuration.load(f"{path}:smoke")
    if "video" in config.data:
        return configuration.load(f"{path}:smoke", [f"--config.data.video={prepared}"])
    config.unlock()
    config.data = {"name": "toy.Images", "size": config.data.size}
    return config.lock()


@pytest.mark.parametrize("path", RECIPES, ids=names)
def test_every_recipe_trains_two_updates(path, prepared, tmp_path):
    config = smoke(path, prepared)
    state = train(config, tmp_path / "run")
    assert int(state.step) == 2
    restored = build.restore(tmp_path / "run")
    assert restored.config.to_dict() == ConfigDict(configuration.plain(config)).to_dict()
    encoder = restored.objective.encoders(restored.state.params, restored.state.state)["image"]
    assert np.isfinite(encoder(np.zeros((1, 32, 32, 3), np.float32)).features).all()


@pytest.mark.parametrize("source", ["stream", pytest.param("device", marks=pytest.mark.long)])
@pytest.mark.parametrize("recipe", ["dora", pytest.param("dino", marks=pytest.mark.long)])
def test_every_source_trains_and_continues(recipe, source, prepared, tmp_path):
    """The run that lost its last checkpoint does that update again, on the same windows."""
    video = prepared.parents[1] / "clip.mp4" if source == "stream" else prepared
    given = [f"--config.data.video={video}", f"--config.data.source={source}", "--config.checkpoint.every=1"]
    config = configuration.load(f"configs/{recipe}.py:smoke", given)
    whole = train(config, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "2")
    assert int(build.restore(tmp_path).state.step) == 1
    jax.tree.map(np.testing.assert_array_equal, train(config, tmp_path), whole)


@pytest.mark.parametrize("source", ["records", "stream", "device"])
@pytest.mark.parametrize(
    "recipe", ["dino", "mae:frames", "mae:video", "simclr:frames", "mocov3:frames", "dinov2:frames"]
)
def test_every_objective_on_images_takes_frames_from_every_source(recipe, source, prepared):
    name, _, variant = recipe.partition(":")
    config = configuration.smoke(configuration.load(f"configs/{name}.py:{variant}").unlock())
    config.data.video = (str(prepared.parents[1] / "clip.mp4" if source == "stream" else prepared),)
    config.data.source = source
    config.data.update({"gap": 0.4} if "gap" in config.data else {})
    objective, data = build.objective(config), build.dataset(config)
    build.check_contract(objective, data)
    if source == "device":
        assert data.plans.image is (variant != "video")
        assert data.plans.size == objective.size
    data.close()


FULL = {
    "dino": ("", "vitb16", "images"),
    "dinov2": ("", "vitl16", "vitl14", "frames"),
    "dora": ("", "vitb16"),
    "mae": ("", "vitl16", "vith14", "frames", "video"),
    "mocov3": ("", "vitb16", "frames"),
    "simclr": ("", "frames"),
}
"""Every recipe's variants that are not made for a laptop."""


def test_no_recipe_is_forgotten():
    assert sorted(FULL) == [path.stem for path in CONFIGS]


@pytest.mark.long
@pytest.mark.parametrize("recipe", [f"{name}:{variant}" for name, variants in FULL.items() for variant in variants])
def test_a_full_recipe_fits_together(recipe):
    """Its step is traced at full size on eight devices, and not compiled: this takes no memory."""
    name, _, variant = recipe.partition(":")
    config = configuration.load(f"configs/{name}.py:{variant}")
    limits.check_numbers(config)
    objective, optimizer, devices = build.objective(config), build.optimizer(config), mesh.make_mesh("fsdp=4")
    mesh.check_batch(devices, config.batch_size)
    update = step.make_train_step(objective, optimizer, seed=config.seed)
    state, _ = step.abstract_state(objective, optimizer, devices)
    with jax.set_mesh(devices):
        after, metrics = jax.eval_shape(update, state, objective.batch_spec(config.batch_size))
    kinds = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) for tree in (state, after)]
    assert kinds[0] == kinds[1]
    assert {(value.shape, str(value.dtype)) for value in metrics.values()} == {((), "float32")}


def sections(config, prefix=""):
    """Return the dotted names of the dictionaries inside a config."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield prefix + key
            yield from sections(value, f"{prefix}{key}.")


@pytest.mark.parametrize("path", RECIPES, ids=names)
def test_every_leaf_is_consumed(path, prepared, tmp_path, monkeypatch):
    """Keys at the top are read by name; a section goes whole to a constructor, which refuses what it does not know."""
    read, original = set(), ConfigDict.__getitem__

    def noting(self, name):
        read.add((id(self), name))
        return original(self, name)

    config = smoke(path, prepared)
    monkeypatch.setattr(ConfigDict, "__getitem__", noting)  # what attributes come down to
    train(config, tmp_path / "run")
    monkeypatch.undo()
    assert {key for key in config if (id(config), key) not in read} == set()

    for name in sections(config):
        if name == "models":
            continue  # its keys are the roles of the models, each a section
        changed = smoke(path, prepared)
        changed.unlock()
        functools.reduce(lambda part, key: part[key], name.split("."), changed)["misspelt"] = 1
        with pytest.raises((InputError, TypeError), match="misspelt"):
            train(changed, tmp_path / "other")


def test_unknown_names_are_told():
    config = configuration.load("toy")
    config.unlock()
    config.objective.name = "dyno"
    with pytest.raises(InputError, match=r"objective names 'dyno': give one of dino, .*dora, .*or the import path"):
        build.objective(config)
    config.objective.name = "toy.Nothing"
    with pytest.raises(InputError, match=r"toy\.Nothing.*has no attribute"):
        build.objective(config)


def test_epochs_become_updates():
    config = configuration.load("configs/dora.py")
    assert build.total_steps(config) == 100 * 320_000 // 128
    config.batch_size = 256
    assert build.total_steps(config) == 100 * 320_000 // 256
    assert config.optimizer.learning_rate.start == pytest.approx(5e-4)  # follows the batch size


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.batchsize=3", "batchsize"),
        ("--config.batch_size=many", "many"),
        ("--config.data.frams=3", "frams"),
        ("--config.optimizer.clip_norm=high", "high"),
    ],
)
def test_bad_overrides_are_told_in_one_line(override, message):
    with pytest.raises(InputError, match=message) as told:
        configuration.load("configs/dora.py", [override])
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("views.locals=-1", "views.locals is -1; give at least 0"),
        ("views.local_size=0", "views.local_size is 0; give at least 1"),
        ("data.scale=(0.2, 1e999)", "data.scale is .* finite"),
        ("data.size=0", r"size \(0\)"),
        ("data.reuse=3", "data.reuse=3"),
        ("data.source=tape", "source is 'tape'"),
        ("data.source=stream", "is a folder: data.source=stream takes video files"),
    ],
)
def test_odd_values_are_told_before_anything_is_written(override, message, prepared, tmp_path):
    given = [f"--config.data.video={prepared}", f"--config.{override}"]
    with pytest.raises(InputError, match=message):
        train(configuration.load("configs/dino.py:smoke", given), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_no_python_is_told(tmp_path):
    (tmp_path / "broken.py").write_text("def get_config(:\n")
    with pytest.raises(InputError, match=r"broken.py, line 1, is not Python"):
        configuration.load(str(tmp_path / "broken.py"))


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("configs/nothing.py", "no such file"),
        ("/", "no such file"),
        (".", "no such file"),
        ("configs/dora.py:huge", "variants"),
        ("checked", "no get_config"),
    ],
)
def test_bad_configs_are_told(location, message):
    with pytest.raises(InputError, match=message):
        configuration.load(location)


def test_a_run_with_an_accelerators_attention_is_restored_on_a_cpu(tmp_path):
    """A CPU cannot train one: the checkpoint is of a run with XLA's, which has the same arrays, and names the other."""
    config = configuration.load("configs/dora.py:smoke")
    state = step.initial_state(build.objective(config), build.optimizer(config), 0, mesh.make_mesh())
    config = configuration.load("configs/dora.py:smoke", ["--config.models.encoder.attention=pallas"])
    with contextlib.closing(checkpoint.Checkpoints(tmp_path / "checkpoints")) as checkpoints:
        checkpoints.save(1, state, checkpoint.Record(0, "", config.to_dict()), {})
    restored = build.restore(tmp_path)
    assert restored.config.models.encoder.attention == "pallas"
    encoder = restored.objective.encoders(restored.state.params, restored.state.state)["image"]
    size = config.views.global_size
    images = jax.numpy.zeros((1, size, size, 3))
    assert encoder.model(encoder.params, images).cls.shape[0] == 1
    with pytest.raises(InputError, match="'pallas' is for TPUs"):
        build.objective(config).encoder(encoder.params, images)
