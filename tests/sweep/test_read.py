"""From a sweep's file to its runs, and what is refused."""

import json

import pytest

from ssljax import configuration
from ssljax.errors import InputError
from ssljax.sweep import Sweep, Variant, grid
from ssljax.sweep.fields import check_differences
from ssljax.sweep.read import expand, read_sweep

SMOKE = "configs/dora.py:smoke"


def runs_of(variants, *overrides, only=(), seeds=None, **given):
    return expand("file.py", Sweep(SMOKE, variants, **given), overrides, only=only, seeds=seeds)


def loaded(run):
    """Return the config that `ssljax train` has with a run's arguments."""
    return configuration.plain(configuration.load(run.location, run.overrides))


def test_values_come_in_their_order():
    variants = [Variant("a"), Variant("b", {"objective.objects": 2, "data.video": lambda videos: videos[:1]})]
    given = ("--config.data.video=x", "--config.data.video=y", "--config.data.gap=0.5", "--config.batch_size=16")
    runs = runs_of(variants, *given, overrides={"data.gap": 0.3, "epochs": 3, "data.video": ("z",)}, seeds=4)
    assert [run.name for run in runs] == [f"{name}/seed-{seed}" for name in "ab" for seed in range(4)]
    a, b = runs[0], runs[7]
    assert (a.config.data.gap, a.config.epochs, a.config.data.video, a.config.seed) == (0.5, 3, ("x", "y"), 0)
    assert (b.config.objective.objects, b.config.data.video, b.config.seed) == (2, ("x",), 3)
    assert a.config.optimizer.learning_rate.start == pytest.approx(5e-4 * 16 / 256)  # follows the batch size
    assert a.differs == {"objective.objects": 3, "data.video": ["x", "y"]}
    assert b.differs == {"objective.objects": 2, "data.video": ["x"]}
    for run in runs:
        assert loaded(run) == configuration.plain(run.config)


def test_a_reference_is_followed_as_on_the_command_line():
    (run,) = runs_of([Variant("a", {"data.frames": 3})], seeds=1)
    assert run.config.objective.frames == 3
    assert "--config.data.frames=3" in run.overrides


@pytest.mark.parametrize("value", [(), (0.2, None), None, "a b", 'say "x"', True, 1e-7, ("a b", "c")])
def test_any_value_is_said_on_the_command_line_or_not_at_all(value):
    key = {tuple: "data.seconds", str: "log.wandb_project", bool: "deterministic", float: "optimizer.clip_norm"}
    name = key.get(type(value), "evaluate.knn.size")
    name = {(): "evaluate.protocols", ("a b", "c"): "data.video"}.get(value, name)
    (run,) = runs_of([Variant("a", {name: value})], seeds=1)
    assert (run.overrides is None) == (value is None)  # absl reads no None where a number may be
    assert run.overrides is None or loaded(run) == configuration.plain(run.config)


def test_a_section_that_is_replaced_goes_by_the_runs_own_file(tmp_path):
    (run,) = runs_of([Variant("a", {"data": {"name": "toy.Images", "size": 40, "weights": (1.0, 2.0)}})], seeds=1)
    assert run.overrides is None
    (tmp_path / "config.json").write_text(json.dumps(configuration.plain(run.config)))
    again = configuration.load(str(tmp_path / "config.json"), ["--config.epochs=7"])
    assert again.data.weights == (1.0, 2.0) and again.epochs == 7
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json cannot be read"):
        configuration.load(str(tmp_path / "config.json"))


def test_a_section_is_each_runs_own(tmp_path, monkeypatch):
    section = configuration.windows(frames=2, gap=0.5, size=40)
    variants = [Variant("a", {"data.size": lambda size: size + 1}), Variant("b")]
    runs = runs_of(variants, overrides={"data": section}, seeds=2)
    assert [run.config.data.size for run in runs] == [41, 41, 40, 40] and section.size == 40
    (tmp_path / "kept.py").write_text(
        f"from ssljax import configuration\nCONFIG = configuration.load({SMOKE!r})\ndef get_config(): return CONFIG\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    runs = expand("file.py", Sweep("kept", variants[:1], {"data.frames": 3}), seeds=2)
    assert [run.config.data.size for run in runs] == [41, 41]
    assert runs[0].config.objective.frames == 3 and configuration.load("kept").data.frames == 2


def test_another_config_and_names_and_seeds():
    runs = runs_of([Variant("a"), Variant("b", config="configs/dino.py:smoke")], seeds=1)
    assert [run.config.objective.name for run in runs] == ["dora", "dino"]
    assert [run.name for run in runs_of([Variant("a"), Variant("b")], only=["b"])] == [f"b/seed-{n}" for n in range(3)]
    assert [run.seed for run in runs_of([Variant("a")], seeds=2)] == [0, 1]
    assert [run.seed for run in expand("f", Sweep(SMOKE, [Variant("a")], seeds=(7, 3)), seeds=4)] == [7, 3, 8, 9]
    names = [variant.name for variant in grid(**{"objective.objects": (1, 2), "objective.sinkhorn": (True, False)})]
    assert names[1] == "objects=1,sinkhorn=False"


@pytest.mark.parametrize(
    ("variants", "given", "message"),
    [
        (
            [Variant("b", {"objective.objcts": 3})],
            {},
            r"file\.py, variant b: objective\.objcts .* no such key \(did you mean objective\.objects\?\)\.$",
        ),
        ([Variant("b", {"zzz": 3})], {}, r"variant b: zzz cannot be set, since the config has no such key\.$"),
        ([Variant("b", {"batch_size": 0.5})], {}, r"variant b: batch_size is 0\.5; give a whole number\.$"),
        ([Variant("b", {"data": 3})], {}, r"variant b: data is 3; give a section\.$"),
        ([Variant("b", {"data.scale": 3})], {}, r"variant b: data\.scale is 3; give a list\.$"),
        ([Variant("b", {"objctive.objects": 3})], {}, r"file\.py, variant b: objctive\.objects .* no such key"),
        (
            [Variant("b", {"objective.objects": "many"})],
            {},
            r"variant b: objective\.objects is 'many'; give a whole number",
        ),
        ([Variant("b")], {"overrides": {"epoch": 1}}, r"variant b: epoch .* no such key"),
        ([Variant("b", {"seed": 3})], {}, r"variant b: seed .* Sweep\.seeds"),
        (
            [Variant("b", {"epochs": lambda: 3})],
            {},
            r"variant b: epochs is a function that .* 1 \(TypeError: .* takes 0",
        ),
        ([Variant("b", {"epochs": lambda n: n / 0})], {}, r"variant b: epochs is a function .*\(ZeroDivisionError"),
        ([Variant("b", config="configs/nothing.py")], {}, r"variant b: .*nothing\.py: no such file"),
    ],
)
def test_what_a_file_may_not_say(variants, given, message):
    with pytest.raises(InputError, match=message):
        runs_of(variants, **given)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.objective.objects=2", r"varies objective\.objects \(variant a\)"),
        ("--config.objective=2", r"varies objective\.objects"),
        ("--config.seed=2", r"--seeds says how many"),
        ("--config.no_such=2", r"file\.py, variant a: .*no_such"),
    ],
)
def test_what_a_user_may_not_say(override, message):
    with pytest.raises(InputError, match=message):
        runs_of([Variant("a", {"objective.objects": 1})], override)


def test_an_unknown_name_is_told():
    with pytest.raises(InputError, match=r"--only c: file\.py has no such variant; give some of a, b"):
        runs_of([Variant("a"), Variant("b")], only=["a", "c"])


def write(folder, body):
    path = folder / "mine.py"
    path.write_text(f"from ssljax.sweep import Sweep, Variant, grid\ndef sweep(budget='laptop'):\n    {body}\n")
    return str(path)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return Sweep('x', [Variant('a'), Variant('a')])", "2 variants named 'a'"),
        ("return Sweep('x', [])", "no variants"),
        ("return [Variant('a')]", "returns list"),
        ("return Sweep('x', [Variant('a')], seeds=(1, 1))", r"seeds \[1, 1\]"),
        ("return Sweep('x', [Variant('a')], seeds=(-1,))", r"seeds \[-1\]"),
        *(
            (f"return Sweep('x', [Variant({name!r})])", "named")
            for name in ("", "a/b", ".a", "report", "a\nb", " a", "ä" * 128)
        ),
        ("return Sweep('x', [Variant('a'), Variant('A')])", "variants named .*'a', 'A'.*, the same folder on some"),
        *(
            (f"return Sweep('x', {variants})", message)
            for variants, message in {
                "['a']": r"Sweep\.variants\[0\] is 'a'; give a ssljax.sweep.Variant",
                "{'a': {}}": r"Sweep\.variants is .*; give a list of",
                "Variant('a')": r"Sweep\.variants is Variant.*; give a list of",
                "None": r"Sweep\.variants is None; give a list of",
                "[Variant(3)]": r"Sweep\.variants\[0\] has the name 3; give text",
                "[Variant('a', None)]": r"the overrides of variant a are None; give values by dotted key",
                "[Variant('a', [('epochs', 1)])]": r"the overrides of variant a are \[.*; give values by dotted key",
                "[Variant('a', config=3)]": r"the config of variant a is 3; give FILE",
                "[Variant('a')], [3]": r"Sweep\.overrides are \[3\]; give values by dotted key",
                "[Variant('a')], seeds=3": r"Sweep\.seeds is 3; give a list",
                "[Variant('a')], seeds=(True,)": r"Sweep\.seeds is \(True,\); give a list",
                "[Variant('a')], metrics=(1,)": r"Sweep\.metrics is \(1,\); give a list of names",
                "[Variant('a')], metrics='loss'": r"Sweep\.metrics is 'loss'; give a list of names",
                "[Variant('a')], varies=3": r"Sweep\.varies is 3; give a dotted key",
                "grid(**{'objective.masks': 'tracked'})": r"grid has 'tracked' for objective\.masks; give a tuple",
                "[1 / 0]": "line 3: ZeroDivisionError: division by zero",
            }.items()
        ),
        ("return Sweep(None, [Variant('a')])", r"Sweep\.config is None; give a config as FILE"),
        ("return 1\nimport nothing_there", "line 4: ModuleNotFoundError: No module named"),
        ("return (", "is not Python"),
    ],
)
def test_what_is_no_sweep(tmp_path, body, message):
    with pytest.raises(InputError, match=message) as refused:
        read_sweep(write(tmp_path, body), "laptop")
    assert str(tmp_path / "mine.py") in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("configs", "varies", "message"),
    [
        ({"a": ("x", {"k": 1}), "b": ("x", {"k": 1})}, "", "variants a and b are the same config; leave one"),
        ({"a": ("x", {"k": 1}), "b": ("y", {"k": 1})}, "k", "varies is 'k', which is 1 in all variants"),
        ({"a": ("x", {"k": 1}), "b": ("x", {"k": 2})}, "k.l", "varies is 'k.l', a key that no variant's config has"),
    ],
)
def test_variants_that_are_alike(configs, varies, message):
    with pytest.raises(InputError, match=message):
        check_differences("mine.py", configs, varies)
    check_differences("mine.py", {"a": ("x", {"k": 1}), "b": ("y", {"k": 1}), "c": ("x", {})}, "k")


def test_a_file_is_found_as_configs_are(tmp_path, monkeypatch):
    path = write(tmp_path, "return Sweep(budget, [Variant('objects=3,scale=(0.4, 1.0)')])")
    assert read_sweep(path, "paper").config == read_sweep(path.removesuffix(".py"), "paper").config == "paper"
    monkeypatch.syspath_prepend(tmp_path)
    assert read_sweep("mine", "x").variants[0].name == "objects=3,scale=(0.4, 1.0)"
    with pytest.raises(InputError, match=r"nowhere: no such file, packaged ablation or module"):
        read_sweep("nowhere", "laptop")
    with pytest.raises(InputError, match=r"has no sweep\(budget\)"):
        read_sweep("configs/dora.py", "laptop")
