"""The command line as a user meets it: exit codes, one-line errors, a whole small session."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures import make_folder
from videos import make_video

import ssljax
from ssljax.cli import main

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a prepared video of 4 s and a finished run of two updates on it."""
    folder = tmp_path_factory.mktemp("session")
    path = make_video(folder / "clip.mp4", frames=100)
    assert main(["prepare", "video", str(path), "--output", str(folder / "data"), "--every", "5"]) == 0
    video = f"--config.data.video={folder / 'data'}"
    assert main(["train", "--config", "configs/dora.py:smoke", "--workdir", str(folder / "run"), video]) == 0
    return folder


def test_a_run_leaves_its_record(folder):
    run = folder / "run"
    assert json.loads((run / "config.json").read_text())["objective"]["name"] == "dora"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    named = {"loss", "teacher_entropy", "student_entropy", "center_norm", "kl", "samples_per_second", "data_wait_share"}
    assert named <= set(rows[0])
    assert json.loads((run / "starts.jsonl").read_text().splitlines()[0])["step"] == 0


@pytest.mark.long
def test_export_report_and_show_write_what_they_say(folder, capsys):
    output = folder / "encoder.safetensors"
    assert main(["export", "--workdir", str(folder / "run"), "--format", "dino", "--output", str(output)]) == 0
    assert str(output) in capsys.readouterr().out
    assert main(["report", "--workdir", str(folder / "run"), "--link", str(output)]) == 0
    page = (folder / "run" / "report" / "index.html").read_text()
    assert "encoder.safetensors" in page
    assert list((folder / "run" / "report").glob("*.gif"))
    for picture, of in (("attention", ["--workdir", str(folder / "run")]), ("features", ["--weights", str(output)])):
        path = folder / f"{picture}.png"
        assert main(["show", picture, str(folder / "data"), *of, "--output", str(path), "--count", "2"]) == 0
        assert path.stat().st_size > 1000
    assert main(["show", "tracks", "--workdir", str(folder / "run"), "--count", "3"]) == 0
    assert (folder / "run" / "tracks.mp4").stat().st_size > 1000
    capsys.readouterr()
    assert main(["show", "embedding", "--workdir", str(folder / "run")]) == 2
    assert "windows" in capsys.readouterr().err
    sheet = folder / "views.png"
    video = f"--config.data.video={folder / 'data'}"
    assert main(["show", "views", "--config", "configs/dora.py:smoke", "--output", str(sheet), video]) == 0
    assert sheet.stat().st_size > 1000


def test_weights_go_out_and_come_in(folder, capsys):
    run, out, back = str(folder / "run"), folder / "hub", str(folder / "imported")
    export = ["--format", "dino", "--with-head", "--output"]
    assert main(["export", "--workdir", run, *export, str(out), "--license", "apache-2.0", "--student"]) == 0
    assert 'license: "apache-2.0"' in (out / "README.md").read_text()
    assert main(["import", "--from", str(out), "--output", back]) == 0
    assert "matched    head: 8 arrays" in capsys.readouterr().out
    assert main(["export", "--workdir", back, *export, str(folder / "again")]) == 0
    for path in out.iterdir():
        assert path.read_bytes() == (folder / "again" / path.name).read_bytes()
    picture = str(folder / "imported.png")
    assert (
        main(["show", "attention", str(folder / "data"), "--workdir", back, "--count", "1", "--output", picture]) == 0
    )
    capsys.readouterr()
    for command, sentence in (
        (["import", "--from", str(out), "--output", back], "is there already"),
        (["import", "--from", str(out), "--output", back + "2", "--format", "timm"], "is of the format 'dino'"),
        (["import", "--from", str(out), "--output", back + "2", "--heads", "5"], "not divisible by heads 5"),
        (["export", "--workdir", run, "--format", "timm", "--with-head", "--output", back + "2"], "an encoder alone"),
        (["export", "--workdir", run, "--format", "torchvision", "--output", back + "2"], "for a ResNet"),
        (["export", "--workdir", back, "--teacher", "--output", back + "2"], "keeps one copy"),
        (["report", back], "imported weights"),
        (["show", "tracks", "--workdir", back], "come without data"),
        (["show", "embedding", "--workdir", back], "come without data"),
        (["show", "reconstructions", "--workdir", back], f"--config.init_from={back}"),
        (["train", "--config", "toy", "--workdir", back], "--config.init_from="),
    ):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1
        assert not (folder / "imported2").exists()


def test_features_of_a_run(folder):
    features = folder / "features.npz"
    assert main(["features", str(folder / "data"), "--workdir", str(folder / "run"), "--output", str(features)]) == 0
    encoder = ssljax.load(folder / "run")
    assert encoder.source["step"] == 2
    with np.load(features) as found:
        assert found["times"].tolist() == [0, 1, 2, 3]
        assert found["features"].shape == (4, encoder.width)


@pytest.mark.parametrize(
    "verb",
    [
        *("", "train", "prepare", "export", "import", "evaluate", "evaluate knn", "features", "report"),
        *("show", "show views", "show reconstructions", "show attention", "show embedding"),
    ],
)
def test_help(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*verb.split(), "--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: ssljax {verb}".rstrip() + " [-h]")


def told(capsys, arguments):
    """Return the one line on standard error of a command that must fail with exit code 2."""
    try:
        code = main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    error = capsys.readouterr().err
    assert code == 2, error
    assert error.count("\n") == 1, error
    return error


def train(folder, *more):
    video = f"--config.data.video={folder / 'data'}"
    return ["train", "--config", "configs/dora.py:smoke", "--workdir", str(folder / "other"), video, *more]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.batchsize=8", "has no key batchsize (did you mean batch_size?)."),
        ("--config.zzz=8", "has no key zzz."),
        ("--config.batch_size=eight", "ssljax: batch_size is 'eight'; give a whole number."),
        ("--config.deterministic=perhaps", "ssljax: deterministic is 'perhaps'; give yes or no (true or false)."),
        ("--config.optimizer.clip_norm=x", "ssljax: optimizer.clip_norm is 'x'; give a number."),
        ("--config.evaluate.knn.size=x", "ssljax: evaluate.knn.size is 'x'; give a whole number."),
        ("--config.optimizer=3", "ssljax: optimizer is '3'; give a section."),
        ("--config.batch_size=12", "multiple of 8"),
        ("--config.data.scale=(0.5, 1.5)", "larger than the frame"),
        ("--config.views.global_size=33", "patch size 8"),
        ("--config.views.local_size=12", "patch size 8"),
        ("--config.objective.objects=9", "objects is 9"),
        ("--config.data.frames=80", "shorter than one window"),
        ("--config.data.video=nowhere", "nowhere"),
        ("--config.mesh=fsdp=3", "mesh"),
        ("--verbose", "--verbose"),
    ],
)
def test_bad_training_input(folder, capsys, override, message):
    assert message in told(capsys, train(folder, override))
    assert not (folder / "other").exists()


@pytest.mark.parametrize("verb", [["train", "--config", "no.py"], ["sweep", "no.py"]])
@pytest.mark.parametrize("below", [".", "below"])
def test_a_file_in_the_folders_place_is_told_first(tmp_path, capsys, verb, below):
    (tmp_path / "file").touch()
    error = told(capsys, [*verb, "--workdir", str(tmp_path / "file" / below)])
    assert f"{tmp_path / 'file'} is a file; name a folder." in error


def test_a_crop_larger_than_the_canvas_is_told(folder, capsys):
    assert "global_scale" in told(capsys, train(folder, "--config.views.global_scale=(0.4, 1.5)"))
    assert not (folder / "other").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["train"],
        ["dance"],
        ["train", "--config", "nothing.py", "--workdir", "x"],
        ["export", "--workdir", "nowhere", "--output", "x.safetensors"],
        ["report", "--workdir", "nowhere"],
        ["show", "tracks", "--workdir", "nowhere"],
        ["show", "neighbours"],
        ["prepare", "video", "nowhere.mp4", "--output", "x"],
        ["prepare", "dance"],
    ],
    ids=" ".join,
)
def test_bad_commands(capsys, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    told(capsys, arguments)
    assert list(tmp_path.iterdir()) == []


def test_export_to_a_strange_file_is_told(folder, capsys):
    output = folder / "encoder.onnx"
    assert "onnx" in told(capsys, ["export", "--workdir", str(folder / "run"), "--output", str(output)])
    assert not output.exists()


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


KNN = ("knn_10", "knn_20", "knn_100", "knn_200")


@pytest.mark.long
def test_two_processes_give_one_processs_losses(folder, tmp_path):
    """Two processes of 4 devices over loopback against one of 8, and its checkpoint continued by one process."""
    for name, count in (("train", 21), ("test", 10)):  # neither fills the last batch, nor divides by the devices
        make_folder(tmp_path / "raw" / name, dict.fromkeys("ab", count))
        assert main(["prepare", "images", str(tmp_path / "raw" / name), "--output", str(tmp_path / name)]) == 0
    config = ["--config", "configs/dora.py:smoke", f"--config.data.video={folder / 'data'}", "--config.epochs=4"]
    config += ["--config.evaluate.every=4", "--config.evaluate.knn.batch_size=16"]
    config += [f"--config.evaluate.knn.{name}={tmp_path / name}" for name in ("train", "test")]
    address = f"127.0.0.1:{free_port()}"

    def start(process):
        flags = ["--coordinator", address, "--processes", "2", "--process", str(process)]
        environment = os.environ | {
            "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
            "JAX_DEFAULT_MATMUL_PRECISION": "highest",
            "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        }
        arguments = ["train", *config, "--workdir", str(tmp_path / "two"), "--config.mesh=fsdp=4", *flags]
        return subprocess.Popen(
            [sys.executable, "-m", "ssljax.cli", *arguments],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    processes = [start(process) for process in range(2)]
    for process in processes:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
    assert main(["train", *config, "--workdir", str(tmp_path / "one")]) == 0
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert len(one) == 8
    np.testing.assert_allclose([line["loss"] for line in two], [line["loss"] for line in one], rtol=1e-5)
    for number in (3, 7):  # the lines after updates 4 and 8
        assert {name: two[number][name] for name in KNN} == {name: one[number][name] for name in KNN}
    assert main(["train", *config, "--workdir", str(tmp_path / "two")]) == 0  # one process reads what two wrote
