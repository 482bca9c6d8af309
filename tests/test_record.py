"""What a run notes of how it was made, and a run made again by that."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import toy as module

import ssljax
from ssljax import build, configuration, record, verification
from ssljax.cli import main
from ssljax.errors import InputError
from ssljax.export.identity import identify
from ssljax.reproduce import read_config
from ssljax.starts import first_start, read_record, read_starts
from ssljax.train import train


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path):
    """A repository with a package in it."""
    root = tmp_path / "checkout"
    (root / "ssljax").mkdir(parents=True)
    (root / "ssljax" / "__init__.py").write_text("x = 1\n")
    (root / "notes.bin").write_bytes(bytes(range(256)))
    git(tmp_path, "init", "-q", root)
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    return root


def test_changes_are_a_patch_of_the_commit(checkout, tmp_path):
    assert record.program(tmp_path, checkout)["dirty"] is None
    assert not (tmp_path / "source").exists()
    git(checkout, "config", "diff.noprefix", "true")
    git(checkout, "config", "color.ui", "always")
    (checkout / "ssljax" / "__init__.py").write_text("x = 2 \nno newline")
    (checkout / "ssljax" / "new.py").write_text("y = 1\n")
    (checkout / "notes.bin").write_bytes(b"\0\1\2")
    (checkout / "data.csv").write_text("1\n")
    (checkout / "private.py").write_text("password = 1\n")
    (checkout / "mine").mkdir()
    for name in ("config.py", "other.py"):
        (checkout / "mine" / name).write_text("def get_config(): return ConfigDict()\nfrom ml_collections import *\n")
    configuration.load(str(checkout / "mine" / "config.py"))
    before, objects = git(checkout, "status", "--porcelain"), sorted((checkout / ".git" / "objects").rglob("*"))
    noted = record.program(tmp_path, checkout)
    assert git(checkout, "status", "--porcelain") == before
    assert sorted((checkout / ".git" / "objects").rglob("*")) == objects  # which may be read-only
    assert noted["commit"] == git(checkout, "rev-parse", "HEAD").strip()
    patch = tmp_path / noted["dirty"]
    assert patch.parent.name == "source" and patch.name.startswith(noted["commit"][:12])
    others = [line for line in patch.read_text().splitlines() if line.startswith("#")]
    assert others == [f"# neither known nor ignored: {name}" for name in ("data.csv", "mine/other.py", "private.py")]
    assert "password" not in patch.read_text()
    git(tmp_path, "clone", "-q", checkout, "other")
    git(tmp_path / "other", "apply", patch)
    for name in ("ssljax/__init__.py", "ssljax/new.py", "mine/config.py", "notes.bin"):
        assert (tmp_path / "other" / name).read_bytes() == (checkout / name).read_bytes(), name
    assert record.program(tmp_path, checkout)["dirty"] == noted["dirty"]


@pytest.mark.parametrize("ours", [True, False])
def test_a_program_of_the_users_own_is_no_command_of_ours(ours, tmp_path, monkeypatch):
    module = str(Path(ssljax.__file__).parent / "cli.py") if ours else str(tmp_path / "cli.py")
    monkeypatch.setattr(sys, "argv", [module, "train"])
    monkeypatch.setattr(sys, "orig_argv", ["python", module, "train"])
    expected = ["ssljax", "train"] if ours else ["python", module, "train"]
    assert record.program(tmp_path, tmp_path)["command"] == expected


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("ssljax sweep objects --slurm setup=x time=4", "ssljax sweep objects --slurm setup=… time=4"),
        ("--slurm=teardown=x export=ALL,WANDB_API_KEY=x", "--slurm=… export=…"),
        (
            "python mine.py --api-key x --hub_token=x --Password x",
            "python mine.py --api-key … --hub_token=… --Password …",
        ),
        ("train --config.data.key=x --config.models.tokens=4", "train --config.data.key=x --config.models.tokens=4"),
        ("--workdir runs/token-keys --only key", "--workdir runs/token-keys --only key"),
    ],
)
def test_no_secret_of_a_command_is_kept(typed, kept):
    assert record.without_secrets(typed.split()) == kept.split()


def test_outside_of_git_the_version_says_what_ran(tmp_path, monkeypatch):
    (tmp_path / "ssljax").mkdir()
    noted = record.program(tmp_path, tmp_path)
    assert (noted["commit"], noted["dirty"]) == (None, None)
    assert noted["packages"]["ssljax"] == ssljax.__version__ and noted["packages"]["jax"] == jax.__version__
    monkeypatch.setenv("PATH", "")
    assert record.program(tmp_path)["commit"] is None


def test_a_package_that_is_only_installed_in_a_repository_has_not_its_commit(checkout, tmp_path):
    (checkout / "venv").mkdir()
    shutil.copytree(checkout / "ssljax", checkout / "venv" / "ssljax")
    assert record.program(tmp_path, checkout / "venv")["commit"] is None


@pytest.mark.long
def test_a_run_is_reproduced_bit_for_bit(tmp_path, monkeypatch, capfd):
    run, again = tmp_path / "run", tmp_path / "again"
    arguments = ["train", "--config", "toy", "--workdir", str(run), "--config.epochs=2", "--config.seed=3"]
    monkeypatch.setattr(sys, "argv", ["/somewhere/ssljax", *arguments])
    assert main(arguments) == 0
    (start,) = read_record(run)
    assert start["command"] == ["ssljax", *arguments]
    assert (start["seed"], start["data_checksum"]) == (3, module.Clips(frames=2, size=40, seed=3).checksum)
    capfd.readouterr()
    assert main(["train", "--reproduce", str(run), "--workdir", str(again), "--config.log.every=2"]) == 0
    assert "unlike" not in capfd.readouterr().err
    one, other = build.restore(run).state, build.restore(again).state
    assert int(one.step) == 4
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert configuration.differences(*(json.loads((at / "config.json").read_text()) for at in (run, again))) == []

    changed = {"commit": "0" * 40, "packages": start["packages"] | {"jax": "0.1"}, "kind": "TPU v5e"}
    (run / "starts.jsonl").write_text(json.dumps(start | changed) + "\n")
    assert main(["train", "--reproduce", str(run), "--workdir", str(again)]) == 0
    told = [line for line in capfd.readouterr().err.splitlines() if "unlike" in line]
    assert len(told) == 3
    expected = ["commit: 0000", "devices: 8 × TPU v5e", f"jax: 0.1 there, {jax.__version__}"]
    for line, words in zip(told, expected, strict=True):
        assert f"unlike {run}: {words}" in line

    monkeypatch.setattr(module, "VERSION", "other")
    assert main(["train", "--reproduce", str(run), "--workdir", str(tmp_path / "third")]) == 2
    assert "The data differs from what" in capfd.readouterr().err
    (run / "starts.jsonl").unlink()  # as of a version that noted no data: the checkpoint knows
    assert main(["train", "--reproduce", str(run), "--workdir", str(tmp_path / "third")]) == 2
    assert "The data differs from what" in capfd.readouterr().err
    assert not (tmp_path / "third").exists()


def made(folder, location="configs/dora.py:smoke"):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(configuration.plain(configuration.load(location))))
    return folder


def test_only_where_and_how_it_runs_may_differ(tmp_path):
    run = made(tmp_path / "run")
    given = {
        "mesh": "data=2",
        "loader.threads": "5",
        "log.every": "7",
        "checkpoint.every": "3",
        "evaluate.every": "4",
        "evaluate.protocols": "('tracks',)",
        "evaluate.tracks.size": "64",  # None before
        "evaluate.davis.sequences": "('cows',)",
        "watch.step": "500.5",
        "data.video": "elsewhere",
    }
    config = read_config(run, [f"--config.{key}={value}" for key, value in given.items()])
    assert (config.mesh, config.data.video, config.evaluate.tracks.size) == ("data=2", ("elsewhere",), 64)
    assert config.evaluate.protocols == ("tracks",) and config.watch.step == 500.5
    there = json.loads((run / "config.json").read_text())
    assert configuration.differences(there, configuration.plain(config)) == [
        "data.video ([] there, ['elsewhere'] here)"
    ]
    assert read_config(run).to_dict() == configuration.load("configs/dora.py:smoke").to_dict()
    config = configuration.load(str(run / "config.json"), ["--config.evaluate.tracks.size=64", "--config.epochs=3"])
    assert (config.evaluate.tracks.size, config.epochs) == (64, 3)
    for key in (
        "epochs=3",
        "seed=1",
        "data.frames=4",
        "objective.objects=1",
        "deterministic=True",
        "data.source=device",
    ):
        with pytest.raises(InputError, match=rf"--config\.{key} would not reproduce .*with --config"):
            read_config(run, [f"--config.{key}"])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda run: (run / "config.json").unlink(), r"config\.json cannot be read"),
        (lambda run: (run / "config.json").write_text("{"), r"config\.json cannot be read"),
        (lambda run: (run / "config.json").write_text('{"objective": {"name": "imported"}}'), "imported weights"),
    ],
)
def test_a_folder_that_holds_no_trained_run_is_refused(tmp_path, write, message):
    run = made(tmp_path / "run")
    write(run)
    with pytest.raises(InputError, match=message):
        read_config(run)


def test_of_a_sweep_the_runs_are_named(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "all" / name).mkdir(parents=True)
        made(tmp_path / "all" / name / "seed-0")
    with pytest.raises(
        InputError, match=r"all is the folder of a sweep; name one of its runs: .*/a/seed-0, .*/b/seed-0"
    ):
        read_config(tmp_path / "all")


def test_a_run_is_not_reproduced_in_its_own_folder_nor_without_its_data(tmp_path):
    run = made(tmp_path / "run", "toy")
    config = read_config(run)
    with pytest.raises(InputError, match="name a new folder"):
        train(config, run, reproduces=run)
    with pytest.raises(InputError, match="neither a start nor a checkpoint"):
        train(config, tmp_path / "again", reproduces=run)
    assert not (tmp_path / "again").exists()


def test_a_run_is_not_reproduced_without_the_weights_that_it_began_with(tmp_path):
    run = made(tmp_path / "run", "toy")
    config = configuration.load("toy", [f"--config.init_from={tmp_path / 'gone.npz'}"])
    (run / "starts.jsonl").write_text(json.dumps({"data_checksum": build.dataset(config).checksum}) + "\n")
    with pytest.raises(InputError, match=r"gone\.npz does not exist"):
        train(config, tmp_path / "again", reproduces=run)
    assert not (tmp_path / "again").exists()


def test_weights_that_a_run_began_with_are_known_by_their_bytes(tmp_path):
    checkpoints = tmp_path / "run" / "checkpoints"
    for step in ("2", "10"):
        (checkpoints / step).mkdir(parents=True)
        (checkpoints / step / "array").write_text(step)
        verification.write_checksums(checkpoints / step)
    (tmp_path / "w.npz").write_bytes(b"abc")
    file, one = identify(str(tmp_path / "w.npz")), identify(str(tmp_path / "run"))
    assert file["sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert one["step"] == 10
    checksums = (checkpoints / "10" / "checksums.json").read_text()
    (checkpoints / "10" / "checksums.json").unlink()
    assert verification.digest(checkpoints / "10") == one["sha256"]
    (checkpoints / "10" / "checksums.json").write_text(checksums)
    (checkpoints / "10" / "array").write_text("x")  # damaged
    other = identify(str(tmp_path / "run"))
    assert other["step"] == 2 and other["sha256"] != one["sha256"]

    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.npz").write_bytes(b"abc")
    folder = identify(str(tmp_path))
    (tmp_path / "README").write_text("unread")
    assert identify(str(tmp_path)) == folder != file
    (tmp_path / "config.json").write_text('{"heads": 3}')
    assert identify(str(tmp_path))["sha256"] != folder["sha256"]

    run_on = {"mesh": {}, "devices": 1, "kind": "cpu", "processes": 1} | record.program(tmp_path, tmp_path)
    told = record.differences([run_on | {"init_from": one}], run_on | {"init_from": other})
    assert told == [
        f"weights that init_from names: step 10, SHA-256 {one['sha256'][:16]} there, "
        f"step 2, SHA-256 {other['sha256'][:16]} here"
    ]
    elsewhere = file | {"path": "moved.npz"}
    assert record.differences([run_on | {"init_from": file}, run_on], run_on | {"init_from": elsewhere}) == []
    assert record.differences([run_on | {"init_from": file}], run_on) == []
    (told,) = record.differences([run_on], run_on | {"init_from": file})
    assert "init_from names: not recorded there, SHA-256 ba7816bf8f01cfea here" in told


def test_config_and_reproduce_exclude_each_other(tmp_path, capsys):
    for more in ([], ["--config", "toy", "--reproduce", str(tmp_path)]):
        with pytest.raises(SystemExit):
            main(["train", "--workdir", str(tmp_path / "run"), *more])
        assert "--reproduce" in capsys.readouterr().err


def test_the_cores_of_a_cpu_and_what_the_environment_sets_are_compared(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_x=1")
    monkeypatch.setenv("JAX_WHATEVER", "1")
    monkeypatch.delenv("JAX_ENABLE_X64", raising=False)
    run_on = {"mesh": {}, "devices": 1, "kind": "cpu", "processes": 1}
    one = run_on | record.program(tmp_path, tmp_path)
    assert (one["cores"], one["environment"]["XLA_FLAGS"]) == (2, "--xla_cpu_x=1")
    assert "JAX_WHATEVER" not in json.dumps(one)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2})
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_x=2")
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    other = run_on | record.program(tmp_path, tmp_path)
    told = [
        "XLA_FLAGS: --xla_cpu_x=1 there, --xla_cpu_x=2 here",
        "JAX_ENABLE_X64: none there, 1 here",
        "cores: 2 there, 3 here",
    ]
    assert record.differences([one], other) == told
    assert record.differences([one | {"kind": "TPU v4"}], other | {"kind": "TPU v4"}) == told[:2]
    older = {key: value for key, value in one.items() if key not in ("cores", "environment")}
    assert record.differences([older], other) == []


def test_starts_of_earlier_versions_are_read(tmp_path):
    old = {"step": 0, "devices": 8, "kind": "cpu", "mesh": {"data": 8}, "processes": 1, "jax": "0.10.0"}
    (tmp_path / "starts.jsonl").write_text(json.dumps(old) + "\n" + json.dumps(old | {"time": 5.0}) + "\n")
    assert read_starts(tmp_path) == ["8 × cpu (data=8; JAX 0.10.0)"]
    assert first_start(tmp_path) == (5.0, 2)
    assert record.differences(read_record(tmp_path), {}) == [
        "by what commit and packages that was made is not recorded"
    ]
