"""The packaged ablations: for every budget each variant is a config that can be built."""

import math
from pathlib import Path

import pytest
from videos import make_video

from data_prep import video
from ssljax import build, configuration, limits
from ssljax.errors import InputError
from ssljax.sweep.budgets import ACCELERATOR_SHARE, BUDGETS, LAPTOP_UPDATES
from ssljax.sweep.read import expand, read_sweep

FILES = sorted((Path(__file__).parents[2] / "configs" / "ablations").glob("*.py"))


def configs(path, budget, *videos):
    """Return the config of each variant by its name, as `ssljax sweep` would launch it."""
    sweep = read_sweep(str(path), budget)
    runs = expand(str(path), sweep, [f"--config.data.video={video}" for video in videos], seeds=1)
    assert [run.variant for run in runs] == [variant.name for variant in sweep.variants] and len(runs) > 1
    assert all(run.overrides is not None for run in runs)  # a user could type each of them
    return {run.variant: run.config for run in runs}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    paths = [str(make_video(folder / f"{name}.mp4", frames=60)) for name in ("one", "two")]
    assert video.main([*paths, "--output", str(folder / "prepared"), "--every", "5"]) == 0
    return folder / "prepared"


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_variant_is_a_config_and_a_folder(path, budget, videos):
    sweep, made = read_sweep(str(path), budget), configs(path, budget, videos)
    for name, config in made.items():
        assert not set(name) & set("/ \\'\"") and name[0] not in ".-"
        limits.check_numbers(config)
        assert config.evaluate.protocols == ("knn", "davis", "tracks")
        build.objective(config)
        build.optimizer(config)
    plain = [configuration.plain(config) for config in made.values()]
    assert all(one != other for number, one in enumerate(plain) for other in plain[:number])
    if sweep.varies:
        section, key = sweep.varies.split(".")
        values = [config[section][key] for config in made.values()]
        recipe = configuration.load(sweep.config)[section][key]
        assert values[0] == recipe and len(set(values)) == len(values)


def test_budgets_are_of_the_length_they_say():
    updates = {budget: build.total_steps(configs(FILES[0], budget, "there/")["recipe"]) for budget in BUDGETS}
    assert FILES[0].stem == "crops"
    assert updates == {"laptop": LAPTOP_UPDATES, "accelerator": 250_000 // ACCELERATOR_SHARE, "paper": 250_000}


@pytest.mark.parametrize("budget", BUDGETS)
def test_objectives_see_as_many_frames_with_the_same_encoder(budget, videos):
    made = configs(FILES[0].with_stem("objectives"), budget, videos)
    assert list(made) == ["dora", "dino", "simclr", "mocov3", "mae"]
    dora = made.pop("dora")
    ours = dora.models.encoder.to_dict()
    for config in made.values():
        assert build.total_steps(config) == build.total_steps(dora)
        assert config.batch_size == dora.batch_size * dora.data.frames
        theirs = config.models.encoder.to_dict()
        assert {key for key in ours if theirs[key] != ours[key]} <= {"drop_path"}
        assert set(theirs) - set(ours) <= {"positions"}
        for key in ("size", "scale", "seconds", "video"):
            assert config.data[key] == dora.data[key]
        rate = build.schedules(config)["learning_rate"], build.schedules(dora)["learning_rate"]
        peaks = [max(range(0, 2 * LAPTOP_UPDATES), key=lambda step, at=at: float(at(step))) for at in rate]
        assert budget != "laptop" or peaks[0] == peaks[1]
        assert all(math.isfinite(float(at(0))) for at in rate)


def test_the_first_of_the_videos(videos):
    path = FILES[0].with_stem("videos")
    made = configs(path, "laptop", videos)
    assert made["all"].data.video == (str(videos),) and made["first"].data.video == (str(videos / "one"),)
    with pytest.raises(InputError, match="one video; give two or more"):
        configs(path, "laptop", videos / "one")


def test_an_unknown_budget_is_refused():
    for path in FILES:
        with pytest.raises(InputError, match="'phone'; give one of laptop, accelerator, paper"):
            read_sweep(str(path), "phone")
    with pytest.raises(InputError, match="has the variants laptop-dino, .*not 'laptop-dora'"):
        configuration.load("configs/ablations/objectives.py:laptop-dora")


def test_packaged_ablations_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert configuration.load("configs/ablations/objectives.py:paper-mae").models.encoder.size == "s"
