"""The files for Kubernetes: against its schemas and JobSet's, and their commands run as a container would."""

import os
import subprocess
import time
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

LAUNCH = Path(__file__).parents[2] / "launch"
VERSION = "1.32"
JOBSETS = ["gke_jobset.yaml", "gke_jobset_gpu.yaml"]
ACTIONS = ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]


def strict(required, **properties):
    return {"type": "object", "required": required, "additionalProperties": False, "properties": properties}


# What we use of JobSet's v1alpha2 (https://jobset.sigs.k8s.io); a Job's part is Kubernetes'.
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
RULE = strict(
    ["action"],
    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
    action={"enum": ACTIONS},
    onJobFailureReasons={"items": {"enum": ["BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy"]}},
    targetReplicatedJobs={"type": "array", "items": NAME},
)
REPLICATED = strict(
    ["name", "template"], name=NAME, replicas={"type": "integer", "minimum": 1}, template={"type": "object"}
)
JOBSET = strict(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=strict(["name"], name=NAME, annotations={"additionalProperties": {"type": "string"}}),
    spec=strict(
        ["replicatedJobs"],
        failurePolicy=strict([], maxRestarts={"type": "integer", "minimum": 0}, rules={"type": "array", "items": RULE}),
        replicatedJobs={"type": "array", "minItems": 1, "items": REPLICATED},
    ),
)


def documents(name):
    return list(yaml.safe_load_all((LAUNCH / name).read_text()))


def job(name):
    """Return the Job's spec of a file."""
    last = documents(name)[-1]["spec"]
    return last["replicatedJobs"][0]["template"]["spec"] if "replicatedJobs" in last else last


def container(name):
    (only,) = job(name)["template"]["spec"]["containers"]
    return only


@pytest.mark.parametrize("name", [path.name for path in sorted(LAUNCH.glob("gke_*.yaml"))])
def test_documents_fit_their_schemas(name):
    for document in documents(name):
        if document["kind"] == "JobSet":
            jsonschema.validate(document, JOBSET)
            kinds = [each["template"]["spec"] for each in document["spec"]["replicatedJobs"]]
            document = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "one"}, "spec": kinds[0]}
        kubernetes_validate.validate(document, VERSION, strict=True)


@pytest.mark.parametrize("name", [*JOBSETS, "gke_prepare.yaml"])
def test_names_meet(name):
    pod = job(name)["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # a policy on exit codes asks for it
    assert {mount["name"] for mount in container(name)["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    for rule in job(name)["podFailurePolicy"]["rules"]:
        assert rule.get("onExitCodes", {}).get("containerName", container(name)["name"]) == container(name)["name"]
    claims = {volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "emptyDir" not in volume}
    assert claims == {documents("gke_jobset.yaml")[0]["metadata"]["name"]}
    assert job(name)["parallelism"] == job(name)["completions"]


@pytest.mark.parametrize("name", JOBSETS)
def test_bad_input_fails_and_everything_else_restarts(name):
    spec = job(name)
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == [2]
    assert spec["backoffLimit"] == 0  # any other code fails the Job too, for another reason: the JobSet restarts
    (rule,) = documents(name)[-1]["spec"]["failurePolicy"]["rules"]
    assert rule["action"] == "FailJobSet" and rule["onJobFailureReasons"] == ["PodFailurePolicy"]


def in_container(name, command, environment, **more):
    """Run a command with the container's variables; those that Kubernetes computes are given."""
    fixed = {each["name"]: each["value"] for each in container(name)["env"] if "value" in each}
    return subprocess.run(command, env=environment | fixed | more, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", JOBSETS)
def test_probes_follow_the_heartbeat(tmp_path, name):
    number = {"gke_jobset.yaml": "6", "gke_jobset_gpu.yaml": "2"}[name]
    beat = tmp_path / "heartbeats" / number
    more = dict(JOB_INDEX="1", JOB_COMPLETION_INDEX="2", WORKDIR=str(tmp_path))

    def probe(which):
        return in_container(name, container(name)[which]["exec"]["command"], dict(os.environ), **more).returncode == 0

    assert not probe("startupProbe") and not probe("livenessProbe")
    beat.parent.mkdir()
    beat.write_text("update 3")
    for due, alive in ((60, True), (-60, False)):
        os.utime(beat, (time.time(), time.time() + due))
        assert probe("startupProbe") and probe("livenessProbe") == alive


@pytest.mark.parametrize("name", JOBSETS)
def test_a_container_begins_without_an_old_heartbeat(tmp_path, environment, name):
    program = container(name)
    number = {"gke_jobset.yaml": "6", "gke_jobset_gpu.yaml": "2"}[name]
    (tmp_path / "heartbeats").mkdir()
    for each in (number, "7"):
        (tmp_path / "heartbeats" / each).write_text("of an earlier start")
    (tmp_path / "plan-1-0").write_text("2")
    more = dict(JOB_INDEX="1", JOB_COMPLETION_INDEX="2", WORKDIR=str(tmp_path))
    told = in_container(name, [*program["command"], *program["args"]], environment, **more)
    assert told.returncode == 2, told.stderr
    assert not (tmp_path / "heartbeats" / number).exists() and (tmp_path / "heartbeats" / "7").exists()
    expected = f"train --distributed --workdir {tmp_path} {' '.join(program['args'])}"
    assert (tmp_path / "started-0").read_text().split(" ", 2)[2] == f"{expected}\n"


def test_each_pod_prepares_its_part(tmp_path, environment):
    program = container("gke_prepare.yaml")
    (tmp_path / "bin" / "ssljax").write_text('#!/bin/sh\necho "$@"\n')
    more = dict(JOB_COMPLETION_INDEX="7", CPUS="8")
    told = in_container("gke_prepare.yaml", [*program["command"], *program["args"]], environment, **more)
    assert told.stdout == f"prepare {' '.join(program['args'])} --shard 8/8 --threads 8\n"
    assert (
        int({each["name"]: each.get("value") for each in program["env"]}["PARTS"])
        == job("gke_prepare.yaml")["completions"]
    )
