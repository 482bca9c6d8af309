"""`ssljax evaluate` and the evaluation inside training, on a small run of DINO on images."""

import json
import shutil

import jax
import numpy as np
import pytest
from pictures import make_folder
from safetensors import safe_open
from safetensors.numpy import save_file

from ssljax import build, configuration
from ssljax.cli import main
from ssljax.data.images import Images
from ssljax.errors import InputError
from ssljax.evaluate.knn import knn
from ssljax.evaluate.labelled import labelled_pair
from ssljax.evaluations import write_results
from ssljax.mesh import make_mesh
from ssljax.ops.augment import normalise
from ssljax.train import train

COUNTS = {"a": 14, "b": 13, "c": 15}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Prepared: train and test with the same classes, other with others, plain without."""
    folder = tmp_path_factory.mktemp("data")
    for name, counts in (("train", COUNTS), ("test", dict.fromkeys("abc", 5)), ("other", {"a": 3, "x": 3})):
        make_folder(folder / "raw" / name, counts)
        assert main(["prepare", "images", str(folder / "raw" / name), "--output", str(folder / name)]) == 0
    assert main(["prepare", "images", str(folder / "raw" / "train" / "a"), "--output", str(folder / "plain")]) == 0
    return folder


def config_of(data, *overrides):
    config = configuration.load("configs/dino.py:cifar10", [f"--config.data.data={data / 'train'}", *overrides])
    config.unlock()
    config.batch_size, config.epochs, config.samples_per_epoch = 8, 1, 48
    encoder = {"name": "vit", "size": "ti", "width": 32, "depth": 1, "heads": 4, "patch_size": 4, "image_size": 32}
    config.models.encoder = encoder
    config.models.head.update(prototypes=32, hidden=16, bottleneck=8)
    config.optimizer.learning_rate.warmup_epochs = 0
    config.views.locals = 0  # quicker to compile
    config.checkpoint.every = 3
    config.log.update(every=5, tensorboard=False)
    return config


def evaluating(data, every):
    pair = [f"--config.evaluate.knn.{name}={data / name}" for name in ("train", "test")]
    return [f"--config.evaluate.every={every}", "--config.evaluate.knn.batch_size=16", *pair]


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """The same run without and with evaluation every 2 of 6 updates: (folder, final state) of each."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        (folder / name, train(config_of(data, *overrides), folder / name))
        for name, overrides in (("off", []), ("on", evaluating(data, 2)))
    ]


def lines(workdir):
    return {row["step"]: row for row in map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())}


def test_training_is_the_same_bits_with_and_without(runs):
    (off, without), (on, with_evaluation) = runs
    jax.tree.map(np.testing.assert_array_equal, without, with_evaluation)
    assert set(lines(off)) == {5, 6}
    assert set(lines(on)) == {2, 4, 5, 6}
    assert [step for step, row in lines(on).items() if "knn_20" in row] == [2, 4, 6]
    assert lines(on)[5]["loss"] == lines(off)[5]["loss"]


@pytest.mark.long
def test_the_verb_agrees_with_the_run_and_with_features_by_hand(data, runs, capsys):
    workdir = runs[1][0]
    arguments = ["--train", str(data / "train"), "--test", str(data / "test"), "--batch-size", "16"]
    assert main(["evaluate", "knn", "--workdir", str(workdir), *arguments, "--baselines"]) == 0
    said = capsys.readouterr().out
    assert "| trained " in said and "| random initialisation " in said and "| pixels " in said
    record = json.loads((workdir / "evaluate" / "knn.json").read_text())
    assert (record["protocol"], record["step"], record["arguments"]["size"]) == ("knn", 6, 32)
    assert record["data"]["train"]["images"] == 42 and record["data"]["test"]["images"] == 15
    last = {name: value for name, value in lines(workdir)[6].items() if name.startswith("knn_")}
    assert record["results"]["trained"] == last
    assert record["results"]["trained"] != record["results"]["random initialisation"] or len(set(last.values())) == 1
    assert record["results"]["pixels"]["knn_10"] > 0.9  # the classes differ in colour

    run = build.restore(workdir)
    encoder = run.objective.encoders(run.state.params, run.state.state)["image"]

    def encode(images):
        return encoder(normalise(images / np.float32(255))).cls

    pair = labelled_pair(train=str(data / "train"), test=str(data / "test"), size=32, batch_size=16)
    assert knn(encode, *pair, make_mesh()) == pytest.approx(last, abs=1e-6)


def test_an_older_checkpoint_and_another_size(data, runs):
    workdir = runs[1][0]
    arguments = ["--train", str(data / "train"), "--test", str(data / "test"), "--step", "3", "--size", "40"]
    assert main(["evaluate", "knn", "--workdir", str(workdir), *arguments]) == 0
    record = json.loads((workdir / "evaluate" / "knn.json").read_text())
    assert (record["step"], record["arguments"]["size"], list(record["results"])) == (3, 40, ["trained"])


def test_the_weights_of_a_run_are_worth_what_the_run_is(data, runs, tmp_path):
    workdir = runs[1][0]
    assert main(["export", "--workdir", str(workdir), "--output", str(tmp_path / "encoder.safetensors")]) == 0
    arguments = ["--train", str(data / "train"), "--test", str(data / "test"), "--batch-size", "16", "--pool", "mean"]
    output = tmp_path / "results" / "run.json"
    assert main(["evaluate", "knn", "--workdir", str(workdir), "--output", str(output), *arguments]) == 0
    weights = ["--weights", str(tmp_path / "encoder.safetensors")]
    assert main(["evaluate", "knn", *weights, *arguments, "--baselines"]) == 0
    record = json.loads((tmp_path / "evaluate" / "knn.json").read_text())
    assert record["arguments"]["size"] == 32 and record["arguments"]["pool"] == "mean"
    assert record["results"]["trained"] == json.loads(output.read_text())["results"]["trained"]
    assert set(record["results"]) == {"trained", "random initialisation", "pixels"}


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        ([], "--workdir RUN or --weights FILE"),
        (["--workdir", "{run}", "--weights", "{foreign}"], "--workdir RUN or --weights FILE"),
        (["--weights", "{foreign}", "--step", "3"], "--step says which checkpoint"),
        (["--weights", "{broken}"], "no .safetensors file that can be read"),
        (["--weights", "{missing}"], "missing.safetensors does not exist"),
        (["--weights", "{changed}"], "holds [1, 31] as encoder/blocks/norm1/bias, but its encoder has [1, 32]"),
        (["--weights", "{fewer}"], "the weights lack blocks.*.norm1.bias"),
        (["--weights", "{more}"], "holds what its metadata does not tell of: The classifier (head)"),
    ],
    ids=["nothing", "both", "step", "broken", "missing", "changed", "fewer", "more"],
)
def test_weights_that_cannot_be_used_are_told(data, runs, tmp_path, capsys, subject, message):
    good = tmp_path / "good.safetensors"
    assert main(["export", "--workdir", str(runs[0][0]), "--output", str(good)]) == 0
    with safe_open(good, framework="numpy") as file:
        state, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    kinds = ("foreign", "broken", "missing", "changed", "fewer", "more")
    places = {name: tmp_path / f"{name}.safetensors" for name in kinds}
    save_file(state, places["foreign"], metadata={"format": "pt"})
    places["broken"].write_bytes(good.read_bytes()[:1000])
    name = "blocks.0.norm1.bias"
    save_file(state | {name: np.zeros(31, np.float32)}, places["changed"], metadata=metadata)
    save_file({other: array for other, array in state.items() if other != name}, places["fewer"], metadata=metadata)
    save_file(state | {"head.bias": np.zeros(2, np.float32)}, places["more"], metadata=metadata)
    capsys.readouterr()
    words = [word.format(run=runs[0][0], **places) for word in subject]
    assert main(["evaluate", "knn", *words, "--train", str(data / "train"), "--test", str(data / "test")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--train", "{data}/plain"], "plain has no labels"),
        (["--train", "{data}/other"], "/other has x, only "),
        (["--train", "{data}/raw/train"], "holds no prepared images"),
        (["--train", "{data}"], "name one, such as"),
        (["--size", "30"], "patch size 4"),
        (["--size", "0"], "at least 1"),
        (["--batch-size", "0"], "at least 1"),
        (["--step", "77"], "no checkpoint of step 77"),
        (["--workdir", "nowhere"], "holds no run"),
    ],
    ids=str,
)
def test_bad_input_is_told(data, runs, capsys, change, message):
    given = {"--workdir": str(runs[0][0]), "--train": f"{data}/train", "--test": f"{data}/test"}
    given[change[0]] = change[1].format(data=data)
    assert main(["evaluate", "knn", *(word for pair in given.items() for word in pair)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (runs[0][0] / "evaluate").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--config.evaluate.every=2"], "No train set of labelled images is named"),
        (["--config.evaluate.every=-1"], "evaluate.every is -1"),
        (["--config.evaluate.every=2", "--config.evaluate.protocols=('nearest',)"], "protocols names 'nearest'"),
    ],
)
def test_bad_evaluation_is_told_before_anything_is_written(data, tmp_path, overrides, message):
    with pytest.raises(InputError, match=message):
        train(config_of(data, *overrides), tmp_path / "run")
    with pytest.raises(InputError, match="patch size 4"):
        train(config_of(data, *evaluating(data, 2), "--config.evaluate.knn.size=30"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def knn_of(data, *subject):
    return main(["evaluate", "knn", *subject, "--train", str(data / "train"), "--test", str(data / "test")])


def test_a_reader_leaves_what_the_run_is_writing(data, runs, tmp_path):
    shutil.copytree(runs[0][0], tmp_path / "run")
    unfinished = tmp_path / "run" / "checkpoints" / "9.orbax-checkpoint-tmp"
    unfinished.mkdir()
    assert knn_of(data, "--workdir", str(tmp_path / "run")) == 0
    assert unfinished.is_dir()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of TensorStore's other reads
def test_a_damaged_checkpoint_is_named_and_another_can_be_taken(data, runs, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(runs[0][0], workdir)
    for path in (workdir / "checkpoints" / "6" / "state").rglob("d/*"):
        if path.is_file():
            path.write_bytes(bytes(path.stat().st_size))
    assert knn_of(data, "--workdir", str(workdir), "--step", "6") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{workdir}/checkpoints/6 cannot be read" in error and "other checkpoints: 3" in error
    assert knn_of(data, "--workdir", str(workdir)) == 0
    (told,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("ssljax:"))
    assert f"{workdir}/checkpoints/6 is damaged" in told and "that of step 3 is used" in told
    assert (workdir / "checkpoints" / "6").is_dir()  # who only reads moves nothing


def test_weights_that_are_no_numbers_are_refused(data, runs, tmp_path, capsys):
    good = tmp_path / "good.safetensors"
    assert main(["export", "--workdir", str(runs[0][0]), "--output", str(good)]) == 0
    with safe_open(good, framework="numpy") as file:
        state, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    state["norm.bias"] = np.full_like(state["norm.bias"], np.nan)
    save_file(state, tmp_path / "nan.safetensors", metadata=metadata)
    assert knn_of(data, "--weights", str(tmp_path / "nan.safetensors")) == 2
    assert "weights that are not finite (1 of" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["/proc/results.json", "{folder}", "{folder}/file/results.json"])
def test_results_that_could_not_be_written_are_not_computed(data, runs, tmp_path, capsys, monkeypatch, place):
    (tmp_path / "file").touch()
    monkeypatch.setattr("ssljax.evaluate.knn.knn", lambda *args: pytest.fail("computed"))
    output = place.format(folder=tmp_path)
    assert knn_of(data, "--workdir", str(runs[0][0]), "--output", output) == 2
    assert f"{output} cannot be written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_results_are_told_where_they_cannot_be_kept(tmp_path):
    with pytest.raises(InputError, match=r"what would be in it: .*0\.25"):
        write_results(tmp_path / "missing" / ("x" * 300), {"results": {"trained": {"knn_20": 0.25}}})


@pytest.mark.long
def test_an_evaluation_that_fails_loses_no_update(data, runs, tmp_path, monkeypatch):
    def fail(*_):
        raise InputError("record 3 is damaged")

    config = config_of(data, *evaluating(data, 2))
    with monkeypatch.context() as patch:
        patch.setattr("ssljax.evaluate.periodic.Periodic.__call__", fail)
        with pytest.raises(InputError, match="record 3"):
            train(config, tmp_path / "run")
    assert int(build.restore(tmp_path / "run").state.step) == 2
    after = train(config_of(data), tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, after, runs[0][1])


def test_evaluation_may_change_when_a_run_is_continued(data, runs, tmp_path):
    config = config_of(data, *evaluating(data, 3))
    assert not configuration.differences(configuration.plain(config), configuration.plain(config_of(data)))


def test_images_fit_the_objective(data):
    build.check_contract(build.objective(config_of(data)), Images(data=data / "train", size=32))
