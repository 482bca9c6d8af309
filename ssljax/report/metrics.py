"""What a run logged, sorted into panels of curves."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ssljax.errors import InputError
from ssljax.meter import ACCOUNTS
from ssljax.starts import read_lines

Lines: TypeAlias = Sequence[Mapping[str, float | int]]
"""The lines of a run's `metrics.jsonl`."""

CURVES: Mapping[str, Sequence[str]] = {
    "loss": ("loss", "object_loss", "local_loss", "cls_loss", "patch_loss"),
    "entropy (nats)": ("teacher_entropy", "student_entropy", "patch_entropy"),
    "KL between views": ("kl",),
    "norm of the centre": ("center_norm",),
    "information in the targets": ("teacher_information", "patch_information"),
    "pairs found in the batch": ("accuracy",),
    "alignment of pairs": ("alignment",),
    "spread of features": ("embedding_std", "cls_deviation"),
    "variance explained": ("explained",),
    "learning rate": ("learning_rate",),
}
"""Panels of training: title and the metrics in it, as far as a run has them."""

EVALUATED: Mapping[str, Sequence[str]] = {
    "k-NN": ("knn_*",),
    "k-NN of videos": ("clips_*",),
    "linear probe": ("linear",),
    "attentive probe": ("attentive",),
    "DAVIS": ("davis_j_and_f", "davis_j", "davis_f"),
    "DAVIS, recall": ("davis_*_recall",),
    "DAVIS, decay": ("davis_*_decay",),
    "correspondence": ("pck_*",),
    "segmentation": ("segmentation_*", "linear_segmentation_*"),
    "retrieval": ("retrieval_*",),
    "revisited landmarks": ("revisited_*",),
    "discovery": ("discovery_*",),
    "fine-tuning": ("finetune",),
}
"""Panels of evaluation, by patterns; all are shares. What matches `_ALONE` is evaluation too, in a panel each."""

RUNNING: Mapping[str, Sequence[str]] = {
    "samples per second": ("samples_per_second",),
    "seconds an update": ("step_time_p50", "step_time_p99"),
    "share of the time (%)": ("goodput", "data_wait_share"),
    "MFU (%)": ("mfu",),
}
"""Panels of how a run goes, which is no measure of learning."""

# In proportion to another, or hardly ever changing: the last value is enough.
_UNDRAWN = ("step_time_p90", "save_share", "model_tflops_per_second", "device_memory_gb", "restarts")
# Accounts, which are there for the next start, and one for each of what may be many processes.
_UNTOLD = (*(f"{account}_seconds" for account in ACCOUNTS), "data_wait_share_*")
_SHARES = ("goodput", "data_wait_share", "save_share", "mfu")

_ALONE = ("tracks_*", "health_*")
_LOWER = ("davis_*_decay", "health_alignment", "health_uniformity", "tracks_overlap")
_NEITHER = ("health_attention_entropy*", "tracks_*_still")
_WRITTEN = {"knn": "k-NN", "davis": "DAVIS", "j": "J", "f": "F", "map": "mAP", "miou": "mIoU", "corloc": "CorLoc"}
_WRITTEN |= {
    "mfu": "MFU",
    "tflops": "TFLOP",
    "gb": "GB",
    "pck": "PCK",
    "rankme": "RankMe",
    "kl": "KL",
    "iou": "IoU",
    "cls": "CLS",
}


_LOGGED = {"embedding_std": "spread of features", "teacher_information": "information in the targets"}
_LOGGED |= {names[0]: title for title, names in CURVES.items() if len(names) == 1}


class Line(NamedTuple):
    """A curve: its name, its points [n, 2] of step and value, and its number among those of its panel or page."""

    name: str
    points: np.ndarray
    number: int


class Panel(NamedTuple):
    """Curves that share their axes."""

    title: str
    lines: Sequence[Line]


class Panels(NamedTuple):
    """All that runs logged: while training, of the evaluation meanwhile, and what else there is."""

    training: Sequence[Panel]
    evaluation: Sequence[Panel]
    other: Sequence[Panel]


def read_metrics(path: Path) -> list[dict[str, float | int]]:
    """Return the lines of a run's `metrics.jsonl`.

    Raises:
        InputError: The file is missing, empty, damaged or no such file.
    """
    lines = read_lines(path, "remove that line, or give the folder of another run")
    if not lines:
        raise InputError(f"{path}: the run has logged nothing yet; let it log at least once.")
    wrong = [number for number, line in enumerate(lines, 1) if not _are_metrics(line)]
    if wrong:
        raise InputError(f"{path}, line {wrong[0]}, holds no metrics; remove it, or give the folder of another run.")
    return lines


def _are_metrics(line: Any) -> bool:
    """Return whether a line is of a step, and of numbers."""
    if not isinstance(line, dict) or not isinstance(line.get("step"), int):
        return False
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in line.values())


def panels(runs: Mapping[str, Lines]) -> Panels:
    """Return the curves of a run, related metrics in one panel; of several, a panel a metric with a curve a run.

    A metric that is no training's and is absent from some of a run's lines is one of evaluation too, as those of
    protocols that are not known here.

    Args:
        runs: Their lines by their names.
    """
    names = list(dict.fromkeys(name for lines in runs.values() for line in lines for name in told(line)))
    training, running = (
        {title: [name for name in members if name in names] for title, members in groups.items()}
        for groups in (CURVES, RUNNING)
    )
    known = {name for groups in (CURVES, RUNNING) for members in groups.values() for name in members}
    left = [name for name in names if name not in known and not _matches(name, _UNDRAWN)]
    left.sort(key=by_number)
    evaluation = {
        f"{title} (%)": list(dict.fromkeys(n for pattern in patterns for n in left if _matches(n, [pattern])))
        for title, patterns in EVALUATED.items()
    }
    left = [name for name in left if not any(name in members for members in evaluation.values())]
    rare = [name for name in left if _matches(name, _ALONE) or any(_is_rare(name, lines) for lines in runs.values())]
    evaluation |= {spoken(name): [name] for name in rare}
    other = running | {spoken(name): [name] for name in left if name not in rare}
    return Panels(*(_panels(runs, groups) for groups in (training, evaluation, other)))


def told(line: Mapping[str, float | int]) -> dict[str, float | int]:
    """Return the metrics of a line that people are told."""
    return {name: value for name, value in line.items() if name != "step" and not _matches(name, _UNTOLD)}


def spoken(name: str) -> str:
    """Return a metric's name as people read it."""
    return " ".join(_WRITTEN.get(word, word) for word in name.split("_")).replace("J and F", "J&F")


def logged(name: str) -> str:
    """Return what a metric that a run logs is called on a page: as its panel is where it is alone in one."""
    return _LOGGED.get(name, spoken(name))


def by_number(name: str) -> list[tuple[bool, int, str]]:
    """Return what to sort a metric's name by, so that "knn_20" comes before "knn_100"."""
    parts = re.split(r"(\d+)", name)
    return [(part.isdigit(), int(part), "") if part.isdigit() else (False, 0, part) for part in parts]


def is_share(name: str) -> bool:
    """Return whether a metric is a share from 0 to 1, shown in per cent."""
    return _matches(name, _SHARES) or any(_matches(name, patterns) for patterns in EVALUATED.values())


def is_evaluation(name: str) -> bool:
    """Return whether a metric is one of evaluation, as far as is known here, and so says how good an encoder is."""
    return _matches(name, _ALONE) or any(_matches(name, patterns) for patterns in EVALUATED.values())


def best_of(name: str, values: Sequence[float]) -> float | None:
    """Return the best of several encoders' values of a protocol's metric; None where none is better than another."""
    finite = [value for value in values if np.isfinite(value)]
    if len(set(finite)) < 2 or _matches(name, _NEITHER):
        return None
    return min(finite) if _matches(name, _LOWER) else max(finite)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _is_rare(name: str, lines: Lines) -> bool:
    return 0 < sum(name in line for line in lines) < len(lines)


def _panels(runs: Mapping[str, Lines], groups: Mapping[str, Sequence[str]]) -> list[Panel]:
    groups = {title: names for title, names in groups.items() if names}
    if len(runs) == 1:
        ((_, lines),) = runs.items()
        return [
            Panel(title, [Line(spoken(name), _points(lines, name), i) for i, name in enumerate(names)])
            for title, names in groups.items()
        ]
    titles = {name: title for title, names in groups.items() for name in names}
    alone = {name: title for title, names in groups.items() if len(names) == 1 for name in names}
    several = {alone.get(name, spoken(name) + " (%)" * title.endswith(" (%)")): name for name, title in titles.items()}
    return [
        Panel(title, [Line(run, points, i) for i, (run, points) in enumerate(curves) if len(points)])
        for title, name in several.items()
        for curves in [[(run, _points(lines, name)) for run, lines in runs.items()]]
    ]


def _points(lines: Lines, name: str) -> np.ndarray:
    points = [(line["step"], line[name]) for line in lines if name in line]
    return np.asarray(points, np.float64).reshape(-1, 2) * (1.0, 100.0 if is_share(name) else 1.0)
