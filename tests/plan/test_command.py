"""`ssljax plan` as a user meets it."""

import json
import math
import os

import jax
import pytest

from ssljax import build, cli, configuration, mesh, step
from ssljax.errors import InputError
from ssljax.plan import model_flops, search, table, topology
from ssljax.plan.compiled import OutOfMemory, _out_of_memory
from ssljax.plan.estimate import make_plan

CONFIG, LAYOUT = "toy", "--config.mesh=fsdp=2"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What the command sets for its process is not for the tests after it."""
    for name in ("XLA_FLAGS", "JAX_PLATFORMS", "TPU_SKIP_MDS_QUERY", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(name, os.environ.get(name, ""))


def bytes_of(tree, parts):
    """Return the bytes of matrices split by `parts` as the sharding rule says, with the rest whole."""
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.shape) / (parts if any(leaf.sharding.spec) else 1)
        for leaf in jax.tree.leaves(tree)
    )


@pytest.mark.long
def test_plan_of_eight_cpus(tmp_path, capsys):
    options = ["--topology", "cpu:8", LAYOUT, "--price", "2", "--json", str(tmp_path / "plan.json")]
    assert cli.main(["plan", "--config", CONFIG, *options]) == 0
    shown, values = capsys.readouterr().out, json.loads((tmp_path / "plan.json").read_text())
    assert max(len(line) for line in shown.splitlines() if "plan.json" not in line) <= 100

    config = configuration.load(CONFIG, [LAYOUT])
    objective, optimizer = build.objective(config), build.optimizer(config)
    state, _ = step.abstract_state(objective, optimizer, mesh.make_mesh("fsdp=2"))
    memory = values["memory"]
    assert memory["parameters"] == bytes_of(state.params, 2)
    assert memory["optimizer"] == bytes_of(state.opt_state, 2)
    assert memory["untrained"] == bytes_of(state.state, 2)
    assert memory["batch"] == 3 * (2 * 40 * 40 * 3 + 4)  # one of eight clips and its position, and two that wait
    assert memory["temporaries"] > 0
    assert memory["total"] == sum(value for name, value in memory.items() if name != "total")

    assert values["model_flops"] == model_flops(config) == sum(values["layer_flops"].values())
    assert values["executed_flops"] > values["model_flops"]  # the recipe recomputes
    assert {"all-reduce"} <= {each["kind"] for each in values["collectives"]}
    gradients = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params)) * 4
    assert sum(each["bytes"] * each["times"] for each in values["collectives"]) > gradients / 2
    assert values["updates"] == build.total_steps(config)
    assert values["chip_hours"] == pytest.approx(8 * values["updates"] * values["times"]["expected"] / 3600)
    assert values["cost"] == pytest.approx(2 * values["chip_hours"])
    assert values["frames_per_second_per_host"] == pytest.approx(2 * values["samples_per_second"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--topology", "v5e"], "--topology is 'v5e'; give one of v4, v5e"),
        (["--topology", "v9:2x2"], "give one of v4, v5e"),
        (["--topology", "cpu:8", "--slices", "2"], "--slices is for TPUs"),
        (["--topology", "cpu:8", "--price", "-1"], "0 or more dollars"),
        (["--topology", "cpu:9"], "9 CPU devices, but this process has 8"),
        (["--topology", "h100:1x8x16"], "at most 8 GPUs of each"),
        (["--topology", "cpu:8", "--config.mesh=fsdp=3"], "needs a multiple of 3 devices, but there are 8"),
        (["--topology", "cpu:8", "--config.batch_size=12"], "does not divide into 1 micro-batch"),
    ],
)
def test_bad_input_is_one_sentence(arguments, sentence, capsys):
    assert cli.main(["plan", "--config", CONFIG, *arguments]) == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("name", "package"), [("v5e:4x4", "libtpu"), ("h100:1x1x8", "jax_cuda12_plugin")])
def test_a_compiler_that_is_not_installed_is_named(name, package, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match=rf"{name} needs the package {package}; pip install 'ssljax\[plan\]'"):
        topology.topology(name)


def small(count=8, memory=None):
    target = topology.topology(f"cpu:{count}")
    chip = target.chip if memory is None else target.chip._replace(name="small", memory=memory)
    return target._replace(chip=chip)


def test_out_of_memory_says_what_to_change():
    config = configuration.load(CONFIG, [LAYOUT])
    sentence = r"Out of memory on cpu:8: .*--config.mesh=fsdp=N.*--config.accumulate=N.*remat=full.*--search"
    with pytest.raises(OutOfMemory, match=sentence) as caught:
        make_plan("toy", config, small(memory=1e5))
    assert caught.value.needed > 1e5


def stub(plan, fits, times):
    """Return a `make_plan` whose plans fit and take as told, both functions of (fsdp, parts, remat)."""

    def make(name, config, target, price=None):
        setting = (mesh.make_mesh(config.mesh).shape["fsdp"], config.accumulate, config.models.encoder.remat)
        if not fits(*setting):
            raise OutOfMemory("too large", 3 * target.chip.memory)
        return plan._replace(config=config, times=plan.times._replace(products=times(*setting)))

    return make


@pytest.mark.parametrize(
    ("message", "needed", "there"),
    [
        ("Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded hbm capacity", "20.5", "15.8"),
        ("total memory required for HLO temporaries (112.00G) exceeds available HBM (15.75G).", "113.0", "15.8"),
        ("something new", "at least 1.0", "4.0"),
    ],
)
def test_what_compilers_say_of_memory(message, needed, there):
    error = _out_of_memory(small(), f"RESOURCE_EXHAUSTED: {message}", 2.0**30)
    assert f"an update needs {needed} GiB of each device's {there};" in str(error)


@pytest.fixture(scope="module")
def plan():
    return make_plan("toy", configuration.load(CONFIG, [LAYOUT]), small())


def test_search_takes_the_fastest_that_fits(plan, monkeypatch):
    cost = {"none": 1.0, "dots": 1.2, "full": 1.5}
    fits = lambda fsdp, parts, remat: remat != "none" and fsdp * parts >= 4  # noqa: E731
    times = lambda fsdp, parts, remat: cost[remat] + 0.01 * fsdp + 0.1 * parts  # noqa: E731
    monkeypatch.setattr(search, "make_plan", stub(plan, fits, times))
    config = configuration.load(CONFIG, ["--config.batch_size=32"])
    lines = []
    found = search.search("toy", config, small(), None, lines.append)
    assert found[0].overrides == ("--config.mesh=fsdp=4", "--config.models.encoder.remat=dots")
    assert len(lines) == len(found)
    assert any("out of memory" in line for line in lines)
    accumulated = [each for each in found if each.plan and "--config.accumulate=4" in each.overrides]
    assert accumulated and all("--config.mesh=fsdp=1" in each.overrides for each in accumulated)
    assert "MFU at most" in search.line(found[0])


def test_search_makes_the_batch_divide(plan, monkeypatch):
    monkeypatch.setattr(search, "make_plan", stub(plan, lambda *_: True, lambda *_: 1.0))
    found = search.search("toy", configuration.load(CONFIG, ["--config.batch_size=12"]), small(), None, lambda _: None)
    assert "--config.batch_size=16" in found[0].overrides


def test_search_that_finds_nothing_says_so(plan, monkeypatch):
    monkeypatch.setattr(search, "make_plan", stub(plan, lambda *_: False, lambda *_: 1.0))
    with pytest.raises(InputError, match="Nothing fits cpu:8"):
        search.search("toy", configuration.load(CONFIG), small(), None, lambda _: None)


def test_meshes_to_try():
    assert search.layouts(256, 4) == ["fsdp=4", "fsdp=16", "fsdp=256", "fsdp=1", "fsdp=2,tensor=2"]
    assert search.layouts(64, 8) == ["fsdp=8", "fsdp=64", "fsdp=1", "fsdp=4,tensor=2"]
    assert search.layouts(1, 8) == ["fsdp=1"]


def test_the_table_of_a_plan_without_a_price(plan):
    shown = table.text(plan)
    assert "No list price is known" in shown
    assert "a CPU's rates are a placeholder" in shown
