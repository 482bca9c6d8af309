"""`ssljax report RUN1 RUN2`: runs of different objectives on one page."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy  # noqa: F401  it takes configuration.load, which must not be a replaced one
from PIL import Image
from reading import Reader

from ssljax import build, configuration
from ssljax.cli import main
from ssljax.errors import InputError
from ssljax.report.runs import short_names
from ssljax.step import TrainState


def restored(recipe):
    """Return a checkpoint of a recipe's smallest form on toy data, after no update, of random numbers."""
    config = configuration.smoke(configuration.load(f"configs/{recipe}.py").unlock())
    config.data = {"name": "toy.Images", "size": config.data.size}
    if "blocks" in config.models.encoder:
        config.models.encoder.blocks = (1, 1)
    objective = build.objective(config.lock())
    random = np.random.default_rng(0)  # quicker than compiling `init`
    draw = lambda leaf: jnp.asarray(random.normal(0, 0.02, leaf.shape), leaf.dtype)  # noqa: E731
    params, state = jax.tree.map(draw, jax.eval_shape(objective.init, jax.random.key(0)))
    return build.Restored(config, objective, TrainState(jnp.zeros((), "int32"), params, state, None))


@pytest.fixture(scope="module")
def checkpoints():
    return {"simclr": restored("simclr"), "mae": restored("mae")}


@pytest.fixture
def runs(checkpoints, tmp_path, monkeypatch):
    """The folders of two runs, the first evaluated."""
    for name in checkpoints:
        (tmp_path / name / "evaluate").mkdir(parents=True)
        lines = [{"step": s, "loss": 2.0 / s, "samples_per_second": 3.0} for s in (1, 2)]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = {"protocol": "knn", "step": 0, "results": {"<trained>": {"knn_20": 0.125}}}
    (tmp_path / "simclr" / "evaluate" / "knn.json").write_text(json.dumps(record))
    monkeypatch.setattr(build, "restore", lambda workdir, step=None: checkpoints[workdir.name])
    return [tmp_path / name for name in checkpoints]


@pytest.mark.long
def test_runs_of_different_objectives_are_set_side_by_side(runs, tmp_path, capsys):
    output = tmp_path / "both"
    assert main(["report", *map(str, runs), "--output", str(output)]) == 0
    assert "wrote" in capsys.readouterr().out
    reader = Reader(output / "index.html")
    reader.check_alone()
    for expected in ("SimCLR", "MAE", "objective.mask_ratio", "simclr: <trained>", "12.50", "Reconstructions"):
        assert expected in reader.text
    for name in ("curves.png", "others.png", "mae/reconstructions.png"):
        with Image.open(output / name) as image:
            image.load()
    assert "seed" not in set(reader.texts)  # it does not differ


def test_a_run_whose_data_are_gone_does_not_stop_the_page(runs, checkpoints, tmp_path, monkeypatch):
    away = checkpoints["mae"].config.copy_and_resolve_references().unlock()
    away.data = {"name": "images", "data": "gone/pictures", "size": away.data.size}
    found = checkpoints | {"mae": checkpoints["mae"]._replace(config=away.lock())}
    monkeypatch.setattr(build, "restore", lambda workdir, step=None: found[workdir.name])
    assert main(["report", *map(str, runs), "--output", str(tmp_path / "page.html")]) == 0
    reader = Reader(tmp_path / "page.html")
    assert f"{runs[1]}: no scores on samples" in reader.text
    assert "data.data: gone/pictures" in reader.text
    assert "alignment" in reader.text


def test_several_runs_need_a_place_for_their_page(runs, capsys):
    assert main(["report", *map(str, runs)]) == 2
    assert "--output" in capsys.readouterr().err
    assert main(["report"]) == 2
    assert "Name a run" in capsys.readouterr().err
    assert main(["report", *map(str, runs), "--output", "x.html", "--seconds", "1", "2"]) == 2
    assert "none of these runs" in capsys.readouterr().err


def test_names_are_as_short_as_tells_runs_apart(tmp_path):
    places = [tmp_path / place for place in ("mae/0", "mae/1", "dino/0")]
    assert short_names(places) == ["mae/0", "mae/1", "dino/0"]
    assert short_names(places[:2]) == ["0", "1"]
    with pytest.raises(InputError, match="named twice"):
        short_names([places[0], tmp_path / "mae" / ".." / "mae" / "0"])
