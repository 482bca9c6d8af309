"""`ssljax export`, `show views` and `report` of every objective and encoder: a file each, or one sentence."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy  # noqa: F401  it takes configuration.load, which must not be the replaced one
from PIL import Image
from reading import Reader
from safetensors.numpy import load_file

from ssljax import build, configuration
from ssljax.cli import main
from ssljax.step import TrainState

VITS = ["mae", "mae:video", "mocov3", "dino:images", "dinov2"]
RESNETS = ["simclr", "mocov3:cifar10"]
RUNS = [*VITS, *RESNETS]


def mostly_long(*core):
    """Return all runs, marked as long but for these."""
    return [name if name in core else pytest.param(name, marks=pytest.mark.long) for name in RUNS]


def small(recipe):
    """Return the recipe's smallest form, on toy data."""
    name, _, variant = recipe.partition(":")
    config = configuration.load(f"configs/{name}.py:{variant}").unlock()
    config = configuration.smoke(config)
    options = {"frames": config.data.frames} if "frames" in config.data else {}
    config.data = {"name": "toy.Clips" if options else "toy.Images", "size": config.data.size, **options}
    if "blocks" in config.models.encoder:
        config.models.encoder.blocks = (1, 1)
    return config.lock()


@pytest.fixture
def run(request, tmp_path, monkeypatch):
    """The folder of a run that stands after no update."""
    config = small(request.param)
    objective = build.objective(config)
    shapes = jax.eval_shape(objective.init, jax.random.key(0))
    random = np.random.default_rng(0)  # quicker than compiling `init`
    draw = lambda leaf: jnp.asarray(random.normal(0, 0.02, leaf.shape), leaf.dtype)  # noqa: E731
    params, state = jax.tree.map(draw, shapes)
    restored = build.Restored(config, objective, TrainState(jnp.zeros((), "int32"), params, state, None))
    monkeypatch.setattr(build, "restore", lambda workdir, step=None: restored)
    monkeypatch.setattr(configuration, "load", lambda location, overrides: config)
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0}) + "\n")
    return tmp_path


def told(capsys, arguments):
    """Return the one line on standard error of a command that must fail with exit code 2."""
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


@pytest.mark.parametrize("run", VITS, indirect=True)
def test_a_vit_is_exported_whatever_trained_it(run):
    assert main(["export", "--workdir", str(run), "--output", str(run / "weights.safetensors")]) == 0
    weights = load_file(run / "weights.safetensors")
    assert weights["pos_embed"].shape == (1, 1 + 16, 32)
    assert weights["blocks.1.attn.qkv.weight"].shape == (96, 32)
    assert all(np.isfinite(weight).all() for weight in weights.values())


@pytest.mark.parametrize("run", RESNETS, indirect=True)
def test_a_resnet_is_exported_where_the_format_has_such_a_stem(run, capsys):
    arguments = ["export", "--workdir", str(run), "--output", str(run / "weights.safetensors")]
    if build.restore(run).config.models.encoder.get("stem") == "cifar":
        assert "stem is 'cifar'" in told(capsys, arguments)
        assert not (run / "weights.safetensors").exists()
        assert main([*arguments, "--format", "safetensors"]) == 0
    else:
        assert main(arguments) == 0
        assert "layer1.0.conv1.weight" in load_file(run / "weights.safetensors")


@pytest.mark.parametrize("run", mostly_long("mae:video", "dinov2"), indirect=True)
def test_views_are_drawn(run):
    assert main(["show", "views", "--config", "x", "--output", str(run / "views.png"), "--samples", "2"]) == 0
    with Image.open(run / "views.png") as image:
        assert image.size[0] > 144 * 3
        assert image.size[1] > 144 * 2


@pytest.mark.parametrize(
    "run", ["mae", *(pytest.param(name, marks=pytest.mark.long) for name in ("simclr", *RUNS))], indirect=True
)
def test_a_report_has_curves_and_numbers(run, capsys):
    assert main(["report", "--workdir", str(run)]) == 0
    reader = Reader(run / "report" / "index.html")
    reader.check_alone()
    page = reader.text
    assert (run / "report" / "curves.png").exists() and "tracks" not in page.split("Configuration")[0]
    metrics = {
        "MAE": "variance explained",
        "SimCLR": "spread of features",
        "MoCoV3": "spread of features",
        "DINO": "norm of the centre",
    }
    name = type(build.restore(run).objective).__name__
    assert metrics.get(name, "patch loss") in page
    if name != "DINO":
        assert f"a report of this {name} has none" in told(
            capsys, ["report", "--workdir", str(run), "--video", "street"]
        )
