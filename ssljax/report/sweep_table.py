"""From a sweep's runs to its table: means and standard deviations over seeds, and which differences exceed them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from ssljax.report.metrics import best_of, is_evaluation, is_share, logged
from ssljax.report.page import Best, Table
from ssljax.report.sweep_folder import FINISHED, TRAINED, Member, Swept, score, value_at

NONE = "–"
_MOST_KEYS = 5
_NARROW = "\N{NO-BREAK SPACE}"  # a narrow window scrolls a table rather than breaking its numbers
_ARROWS = {1.0: " ↑", 0.0: " ↓", None: ""}


class Spread(NamedTuple):
    """A metric of a variant, or of a baseline.

    Attributes:
        values: The finite ones by seed.
        runs: How many have finished.
    """

    values: Mapping[int, float]
    runs: int

    @property
    def mean(self) -> float:
        """The mean over seeds, NaN without any."""
        return float(np.mean(list(self.values.values()))) if self.values else math.nan

    @property
    def deviation(self) -> float:
        """The standard deviation over seeds (n - 1), NaN of fewer than two."""
        return float(np.std(list(self.values.values()), ddof=1)) if len(self.values) > 1 else math.nan


class Measured(NamedTuple):
    """A metric of all variants.

    Attributes:
        metric: Its name.
        scores: By variant.
        better: 1.0 where more is better, 0.0 where less is, None where neither.
        pooled: The standard deviation within variants, pooled over them; NaN where none has two seeds.
        freedom: Its degrees of freedom.
    """

    metric: str
    scores: Mapping[str, Spread]
    better: float | None
    pooled: float
    freedom: int

    @property
    def best(self) -> float | None:
        """The best mean, None where there is none or none is better than another."""
        means = [spread.mean for spread in self.scores.values()]
        return None if self.better is None else best_of(self.metric, means)


class Baseline(NamedTuple):
    """What was not trained, such as the network at random initialisation.

    Attributes:
        name: As `ssljax evaluate` has it.
        variants: Those of which it is the baseline.
        scores: By metric.
    """

    name: str
    variants: Sequence[str]
    scores: Mapping[str, Spread]


def measure(swept: Swept, metric: str) -> Measured:
    """Return a metric of all variants; runs that have not finished, and values that are not finite, do not count."""
    scores = {variant: _spread(members, metric) for variant, members in swept.variants.items()}
    judged = is_evaluation(metric) or any(
        metric in values for member in swept.members for one in member.results for values in one.results.values()
    )
    groups = [list(spread.values.values()) for spread in scores.values()]
    freedom = sum(len(group) - 1 for group in groups if group)
    squares = sum(float(np.sum((np.asarray(group) - np.mean(group)) ** 2)) for group in groups if group)
    pooled = math.sqrt(squares / freedom) if freedom else math.nan
    return Measured(metric, scores, best_of(metric, (0.0, 1.0)) if judged else None, pooled, freedom)


def least_difference(measured: Measured, one: str, other: str) -> float:
    """Return the least significant difference of two variants' means at 5 % (Fisher's), NaN where there is none.

    It is t(0.975, f) s sqrt(1/a + 1/b), with s the pooled standard deviation, f its degrees of freedom, and a and b
    the numbers of seeds (Fisher, The Design of Experiments, 1935).
    """
    a, b = (len(measured.scores[name].values) for name in (one, other))
    if not (measured.freedom and a and b):
        return math.nan
    return float(special.stdtrit(measured.freedom, 0.975)) * measured.pooled * math.sqrt(1 / a + 1 / b)


def baselines(swept: Swept) -> list[Baseline]:
    """Return the baselines; variants of which one scores alike in all that both have share it."""
    names = dict.fromkeys(
        name for member in swept.members for one in member.results for name in one.results if name != TRAINED
    )
    found: list[Baseline] = []
    for name in names:
        groups: list[tuple[list[str], dict[str, dict[int, float]]]] = []
        for variant, members in swept.variants.items():
            scores = {metric: dict(_spread(members, metric, name).values) for metric in swept.metrics}
            if not any(scores.values()):
                continue
            alike = next((group for group in groups if _agree(group[1], scores)), None)
            if alike is None:
                groups.append(([variant], scores))
                continue
            alike[0].append(variant)
            for metric, values in scores.items():
                alike[1][metric] |= values
        for variants, scores in groups:
            spreads = {metric: Spread(values, len(values)) for metric, values in scores.items()}
            found.append(Baseline(name, variants, spreads))
    return found


def label(baseline: Baseline, all_of_them: Sequence[Baseline]) -> str:
    """Return what a baseline is called beside others; it names its variants where there is another of its kind."""
    alone = sum(other.name == baseline.name for other in all_of_them) == 1
    return baseline.name if alone else f"{baseline.name} of {', '.join(baseline.variants)}"


def heading(measured: Measured) -> str:
    """Return a metric's name as people read it, with its unit."""
    return logged(measured.metric) + " (%)" * is_share(measured.metric)


def written(measured: Measured, value: float, *, sign: bool = False) -> str:
    """Return a metric's value as text, with as many decimals as the others of its column; shares in per cent."""
    if not math.isfinite(value):
        return NONE
    if is_share(measured.metric):
        return f"{100 * value:{'+' * sign}.2f}"
    largest = max((abs(spread.mean) for spread in measured.scores.values() if spread.values), default=0.0)
    decimals = 3 - math.floor(math.log10(largest)) if largest > 0 else 3
    return f"{value:{'+' * sign}.{min(max(decimals, 0), 8)}f}"


def results_table(swept: Swept, columns: Sequence[Measured], rows: Sequence[Baseline]) -> Table:
    """Return the table: a row a variant, the best mean of each column in bold, then a row a baseline."""
    keys = table_keys(swept)
    names = _short(keys)
    heads = ("", *(names[key] for key in keys), "seeds", *(f"{heading(one)}{_ARROWS[one.better]}" for one in columns))
    body = []
    for variant, members in swept.variants.items():
        done = sum(member.state == FINISHED for member in members)
        seeds = str(done) if done == len(members) else f"{done} of {len(members)}"
        cells = [_cell(one, one.scores[variant], one.best) for one in columns]
        body.append((variant, *(value_text(value_of(swept.examples[variant], key)) for key in keys), seeds, *cells))
    for row in rows:
        cells = [_cell(one, row.scores[one.metric], None, fixed=True) for one in columns]
        body.append((label(row, rows), *("" for _ in keys), "", *cells))
    return Table(heads, body)


def table_keys(swept: Swept) -> list[str]:
    """Return the keys that are columns: those that variants of the reference's config have different values of.

    The config itself is one, "config", where variants have others. Of many keys the first few are columns.
    """
    firsts = list(swept.examples.values())
    common = next((one.file for one in firsts if one.variant == swept.reference), firsts[0].file if firsts else "")
    alike = [one for one in firsts if one.file == common]
    keys = dict.fromkeys(key for one in alike for key in one.differs if key != "seed")
    varied = [key for key in keys if len({value_text(value_of(one, key)) for one in alike}) > 1]
    varied.sort(key=lambda key: key != swept.varies)
    return [*["config"] * (len({one.file for one in firsts}) > 1), *varied[:_MOST_KEYS]]


def value_of(member: Member, key: str) -> Any:
    """Return a run's value of a key: what its variant sets, or else what its config has, which may be nothing."""
    if key == "config":
        return member.file
    return member.differs.get(key, value_at(member.config, key))


def value_text(value: Any) -> str:
    """Return a config's value as text."""
    if value is None:
        return NONE
    if isinstance(value, list):
        return ", ".join(map(value_text, value))
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, dict) else f"{value!r}"


def sentences(swept: Swept, columns: Sequence[Measured]) -> Iterator[str]:
    """Give, for each metric, which variants differ from the reference by more than the spread over seeds."""
    for one in columns:
        others = [name for name, spread in one.scores.items() if spread.values and name != swept.reference]
        if swept.reference not in one.scores or not one.scores[swept.reference].values:
            yield f"{heading(one)}: {swept.reference} has no value, so that nothing can be compared with it."
        elif not others:
            yield f"{heading(one)}: no other variant has a value that could be compared with {swept.reference}."
        elif not one.freedom:
            yield f"{heading(one)}: with one seed a variant, nothing can be said of which differences are chance."
        else:
            yield _compared(one, swept.reference, others)


def not_better(columns: Sequence[Measured], rows: Sequence[Baseline]) -> Iterator[str]:
    """Give a sentence for each metric in which variants are no better in the mean than a baseline of theirs."""
    for one in columns:
        for row in rows:
            there = row.scores[one.metric].mean
            if one.better is None or math.isnan(there):
                continue
            means = {name: one.scores[name].mean for name in row.variants if one.scores[name].values}
            worse = [name for name, mean in means.items() if (mean <= there if one.better else mean >= there)]
            if worse:
                yield f"{heading(one)}: no better than {label(row, rows)} ({written(one, there)}): {', '.join(worse)}."


def _compared(one: Measured, reference: str, others: Sequence[str]) -> str:
    base = one.scores[reference].mean
    least = {name: least_difference(one, reference, name) for name in others}
    common = len({written(one, value) for value in least.values()}) == 1
    beyond: list[str] = []
    within: list[str] = []
    for name in others:
        difference = one.scores[name].mean - base
        said = f"{name} ({written(one, difference, sign=True)}"
        said += ")" if common else f"; at least {written(one, least[name])})"
        (beyond if abs(difference) > least[name] else within).append(said)
    needed = f" ({written(one, least[others[0]])})" if common else ""
    text = (
        f"{heading(one)}: the pooled standard deviation over seeds is {written(one, one.pooled)} ({one.freedom} "
        "degrees of freedom). "
    )
    if not beyond:
        return f"{text}No variant differs from {reference} by more than the least significant difference{needed}: " + (
            f"{', '.join(within)}."
        )
    text += f"By more than the least significant difference{needed} differ from {reference}: {', '.join(beyond)}."
    return text + (f" By less: {', '.join(within)}." if within else "")


def _spread(members: Sequence[Member], metric: str, encoder: str = TRAINED) -> Spread:
    found = {member.seed: score(member, metric, encoder) for member in members}
    values = {seed: value for seed, value in found.items() if value is not None and math.isfinite(value)}
    return Spread(values, sum(member.state == FINISHED for member in members))


def _agree(one: Mapping[str, Mapping[int, float]], other: Mapping[str, Mapping[int, float]]) -> bool:
    pairs = [
        (one[metric][seed], value) for metric in one for seed, value in other[metric].items() if seed in one[metric]
    ]
    return bool(pairs) and all(math.isclose(a, b, rel_tol=1e-6) for a, b in pairs)


def _cell(one: Measured, spread: Spread, best: float | None, *, fixed: bool = False) -> str:
    """Return a mean with its deviation; a baseline that is the same for all seeds, as pixels are, has none."""
    if not spread.values:
        return NONE
    text, values = written(one, spread.mean), set(spread.values.values())
    if len(spread.values) > 1 and not (fixed and len(values) == 1):
        text = _with_deviation(one, spread)
    if len(spread.values) < spread.runs:
        text += f" ({len(spread.values)} of {spread.runs})"
    return Best(text) if spread.mean == best else text


def _with_deviation(one: Measured, spread: Spread) -> str:
    """Return a mean and its deviation, both to the deviation's first two digits, unless that is next to nothing."""
    mean, deviation = (100 * value if is_share(one.metric) else value for value in (spread.mean, spread.deviation))
    digits = f"{deviation:.1e}"  # rounded first: 0.0996 has the digits of 0.10
    decimals = max(0, 1 - int(digits.partition("e")[2]))
    if deviation < 1e-4 * abs(mean):
        texts = written(one, spread.mean), written(one, spread.deviation)
    else:
        texts = f"{mean:.{decimals}f}", f"{deviation:.{decimals}f}"
    return f"{_NARROW}±{_NARROW}".join(texts)


def _short(keys: Sequence[str]) -> dict[str, str]:
    """Return the last parts of dotted keys, as few as tell them apart."""
    for count in range(1, 1 + max((key.count(".") + 1 for key in keys), default=0)):
        names = {key: ".".join(key.split(".")[-count:]) for key in keys}
        if len(set(names.values())) == len(keys):
            return names
    return {key: key for key in keys}
