"""The files for SkyPilot: the fields that its task schema has, and their commands run as on a host."""

import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

LAUNCH = Path(__file__).parents[2] / "launch"
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
# What we use of https://docs.skypilot.co/en/latest/reference/yaml-spec.html.
RECOVERY = dict(
    max_restarts_on_errors={"type": "integer", "minimum": 0},
    recover_on_exit_codes={"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}},
)
RESOURCES = dict(
    infra={"type": "string", "pattern": "^(?i:kubernetes|k8s)(?:/.+)?$"},
    accelerators={"type": "string"},
    cpus={"type": ["string", "integer"]},
    use_spot={"type": "boolean"},
    job_recovery={"type": "object", "additionalProperties": False, "properties": RECOVERY},
)
MOUNT = dict(name={"type": "string"}, mode={"enum": ["MOUNT", "COPY", "MOUNT_CACHED"]})
TASK = {
    "type": "object",
    "additionalProperties": False,
    "properties": dict(
        name={"type": "string", "pattern": "^[a-zA-Z0-9]+(?:[._-]{1,2}[a-zA-Z0-9]+)*$"},
        num_nodes={"type": "integer", "minimum": 1},
        workdir={"type": "string"},
        resources={"type": "object", "additionalProperties": False, "properties": RESOURCES},
        file_mounts={"additionalProperties": {"type": "object", "additionalProperties": False, "properties": MOUNT}},
        volumes=TEXTS,
        envs=TEXTS,
        setup={"type": "string"},
        run={"type": "string"},
    ),
}

VOLUME = {
    "type": "object",
    "required": ["name", "type"],
    "additionalProperties": False,
    "properties": dict(
        name={"type": "string"},
        type={"enum": ["k8s-pvc", "runpod-network-volume"]},
        infra=RESOURCES["infra"],
        size={"type": "string", "pattern": "^[0-9]+(Ki|Mi|Gi|Ti)$"},
        config={
            "type": "object",
            "additionalProperties": False,
            "properties": dict(
                access_mode={"enum": ["ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany"]},
                storage_class_name={"type": "string"},
            ),
        },
    ),
}


def task(name):
    return yaml.safe_load((LAUNCH / name).read_text())


def run(name, environment, folder, **envs):
    """Run a task's commands as the second of two hosts."""
    host = dict(
        SKYPILOT_NODE_RANK="1", SKYPILOT_NUM_NODES="2", SKYPILOT_NODE_IPS="10.0.0.1\n10.0.0.2", HOME=str(folder)
    )
    return subprocess.run(
        ["bash", "-c", task(name)["run"]],
        env=environment | task(name)["envs"] | host | envs,
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize("name", ["skypilot.yaml", "skypilot_prepare.yaml"])
def test_tasks_fit_the_schema(name):
    jsonschema.validate(task(name), TASK)
    for part in ("setup", "run"):
        subprocess.run(["bash", "-n", "-c", task(name)[part]], check=True)


@pytest.mark.parametrize("name", ["skypilot.yaml", "skypilot_prepare.yaml"])
def test_what_is_written_is_on_a_volume_that_all_hosts_write(name):
    volume = task("skypilot_volume.yaml")
    jsonschema.validate(volume, VOLUME)
    assert volume["config"]["access_mode"] == "ReadWriteMany"
    assert task(name)["volumes"] == {"/share": volume["name"]}
    arguments = task(name)["envs"]["ARGUMENTS"].split()
    (written,) = [arguments[i + 1] for i, word in enumerate(arguments) if word in ("--workdir", "--output")]
    assert written.startswith("/share/")


def test_bad_input_is_not_tried_again():
    assert task("skypilot.yaml")["resources"]["job_recovery"] == dict(
        max_restarts_on_errors=0, recover_on_exit_codes=[75]
    )


def test_each_host_runs_its_process(tmp_path, environment):
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "local.sh").write_text('#!/bin/sh\necho "$PROCESS: $@"\n')
    (tmp_path / "launch" / "local.sh").chmod(0o755)
    given = task("skypilot.yaml")["envs"]["ARGUMENTS"]
    place = "--coordinator 10.0.0.1:8476 --processes 2 --process 1"
    assert run("skypilot.yaml", environment, tmp_path) == f"1: 1 {place} {given}\n"
    told = run("skypilot.yaml", environment, tmp_path, PLACE="--distributed", ARGUMENTS="--config x --workdir y")
    assert told == "1: 1 --distributed --config x --workdir y\n"


def test_each_host_prepares_its_part(tmp_path, environment):
    program = tmp_path / "environment" / "bin" / "ssljax"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    told = run("skypilot_prepare.yaml", environment, tmp_path, ARGUMENTS="video a.mp4 b.mp4 --output there")
    assert told == "prepare video a.mp4 b.mp4 --output there --shard 2/2\n"
