"""A model card is what the hub reads, and says how to load the weights and all that is known of them."""

import json
import re

import numpy as np
import pytest
import yaml
from released import HEAD, RESNET, VIT, network

from ssljax import configuration
from ssljax.export import write_network
from ssljax.export.formats import FORMATS
from ssljax.export.places import MARK
from ssljax.export.runs import network_of_run, write_run
from ssljax.export.source import source_of

SOURCE = {
    "objective": "dora",
    "step": 1200,
    "samples": 307200,
    "image_size": 32,
    "data": {"name": "windows", "data": "walks/venice", "video": "venice.mp4"},
    "metrics": {"knn": {"top1": 61.25, "top5": 0.0314159}, "davis": {"j_and_f": 57.0}},
    "config": {"seed": 3, "objective": {"name": "dora", "rate": [1, 2.5]}, "note": "a `fence`: | and ```"},
    "license": "CC BY-NC 4.0: ask [us]",
}
LOADS = {
    "dino": "model.load_state_dict(load_file(",
    "timm": 'timm.create_model("local-dir:',
    "transformers": "AutoModel.from_pretrained(",
    "torchvision": "torchvision.models.resnet18()",
    "onnx": "onnxruntime.InferenceSession(",
}


def folder_of(format, tmp_path, **arguments):
    """Return the folder of a tiny network."""
    if format == "onnx":
        pytest.importorskip("onnx")
    made = network(encoder=RESNET if format == "torchvision" else VIT)
    write_network(made._replace(source=SOURCE, averaged=True), tmp_path / "folder", format=format, **arguments)
    return tmp_path / "folder"


def read(folder):
    """Return a card's front matter and the rest."""
    text = (folder / "README.md").read_text()
    _, front, rest = text.split("---\n", 2)
    return yaml.safe_load(front), rest


@pytest.mark.parametrize("format", FORMATS)
def test_a_card_says_what_is_known(format, tmp_path):
    front, text = read(folder_of(format, tmp_path, dtype="float16"))
    library = format if format in ("timm", "transformers", "onnx") else "ssljax"
    tags = ["image-feature-extraction", "dora", "ssljax"]
    assert front == {"license": SOURCE["license"], "library_name": library, "tags": tags}
    assert re.search(r"^# (ViT of width 48|ResNet of \[1, 2, 1, 1\] blocks).* pretrained with dora$", text, re.M)
    assert "weights in float16, a moving average" in text
    assert LOADS.get(format, "ssljax.load(") in text
    assert ("ssljax.load(" in text) == (format != "onnx")
    assert "less the mean (0.485, 0.456, 0.406), over the deviation (0.229, 0.224, 0.225)" in text
    assert "- updates: 1,200 (307,200 samples)\n" in text
    assert "- data: name 'windows', data 'walks/venice', video 'venice.mp4'\n" in text
    assert f"- licence: {SOURCE['license']}\n" in text
    for row in ("| knn | top1 | 61.25 |", "| knn | top5 | 0.03142 |", "| davis | j_and_f | 57 |"):
        assert f"\n{row}\n" in text
    shown = re.search(r"## Config\n\n(`{3,})json\n(.*)\n\1\n", text, re.S)
    assert shown is not None and json.loads(shown[2]) == SOURCE["config"]


def test_every_part_and_its_arguments(tmp_path):
    write_network(network(encoder=VIT, head=HEAD), tmp_path / "folder")
    front, text = read(tmp_path / "folder")
    assert front["license"] == "unknown" and MARK in (tmp_path / "folder" / "README.md").read_text()
    assert "- encoder: vit (" in text and "patch_size 8" in text
    assert "- head: dino_head (" in text and "prototypes 24" in text
    assert "come from a file that does not say how they were trained" in text and "- licence: not stated" in text
    assert "## What was measured" not in text and "## Config" not in text


@pytest.mark.parametrize("format", ["dino", "transformers", "npz", "onnx"])
def test_the_code_of_a_card_runs(format, tmp_path, monkeypatch):
    """Ours, and onnxruntime's; the others' need PyTorch."""
    folder = folder_of(format, tmp_path)
    code = re.findall(r"```python\n(.*?)```", read(folder)[1], re.S)[-1].replace("PATH/TO/THIS/FOLDER", f"{folder}")
    monkeypatch.chdir(folder)
    values = {"images": np.zeros((2, 32, 32, 3), np.uint8)}
    if format == "onnx":
        pytest.importorskip("onnxruntime")
        values["images"] = np.zeros((2, 3, 32, 32), np.float32)
    exec(code, values)
    cls = values["outputs"][0] if format == "onnx" else values["features"].cls
    assert cls.shape == (2, 48)


def results(step, top1, **more):
    return {"protocol": "knn", "step": step, "results": {"trained": {"top1": top1}, "random": {"top1": 1.0}}} | more


def write_evaluations(run):
    """Write results of steps 7 and 0, and what is none."""
    (run / "evaluate").mkdir(parents=True)
    for name, record in {
        "knn": results(7, 61.0),
        "linear": results(7, 70.0, protocol="linear"),
        "start": results(0, 12.0, protocol="clips"),
        "weights": {"protocol": "davis", "weights": "a.npz", "results": {"trained": {"j_and_f": 3.0}}},
        "list": [1, 2],
        "odd": results(7, "good", protocol="odd"),
    }.items():
        (run / "evaluate" / f"{name}.json").write_text(json.dumps(record))
    (run / "evaluate" / "cut.json").write_text('{"protocol": "kn')


def test_a_runs_card_has_the_results_of_its_step_alone(tmp_path):
    write_evaluations(tmp_path)
    config = configuration.load("configs/dino.py:smoke")
    source = source_of(tmp_path, config, 7)
    assert source["metrics"] == {"knn": {"top1": 61.0}, "linear": {"top1": 70.0}}
    assert source_of(tmp_path, config, 0)["metrics"] == {"clips": {"top1": 12.0}}
    assert source_of(tmp_path, config, 3)["metrics"] == {}
    assert (source["objective"], source["step"], source["samples"]) == ("dino", 7, 7 * config.batch_size)
    assert source["config"]["models"]["encoder"]["name"] == "vit" and "loader" not in source["config"]
    assert source["data"]["name"] == config.data.name
    made = network(encoder=VIT)._replace(source=source)
    write_network(made, tmp_path / "folder")
    text = read(tmp_path / "folder")[1]
    assert "| linear | top1 | 70 |" in text and "clips" not in text and "davis" not in text


def test_an_imported_runs_card_has_what_was_measured_of_it_too(tmp_path):
    run = tmp_path / "run"
    ours, other = network(encoder=VIT)._replace(source=SOURCE), network(seed=1, encoder=VIT)
    write_run(ours._replace(twin=other.params), run, "weights.npz")
    assert network_of_run(run).source == SOURCE
    write_evaluations(run)
    found = network_of_run(run, license="mit").source
    assert found == SOURCE | {"license": "mit", "metrics": SOURCE["metrics"] | {"clips": {"top1": 12.0}}}
    assert network_of_run(run, copy="teacher").source == SOURCE | {"metrics": {}}  # they are the student's
