"""What a sweep's page says besides its numbers: what is missing, at what scale it ran, how it was made."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ssljax import build, configuration
from ssljax.errors import InputError
from ssljax.report.page import Alert, Block, Section, Table, Text
from ssljax.report.results import Evaluated, changed_conditions, how_measured
from ssljax.report.sweep_folder import DAMAGED, FAILED, FINISHED, NOT_STARTED, UNFINISHED, Member, Swept, score

_UNSAID = "not recorded"
_PLACES = ("video", "data", "dataset")


def absent(swept: Swept) -> Iterator[str]:
    """Give sentences about what the table lacks: runs that failed or have not finished, metrics that are not there."""
    for one in swept.members:
        if one.state == FAILED:
            yield f"{one.name} failed at update {one.updates}, and is not in the table: {one.error}"
        elif one.state == DAMAGED:
            yield f"{one.name} cannot be read, and is not in the table: {one.error}"
    for state, said in ((UNFINISHED, "Not finished"), (NOT_STARTED, "Not started")):
        names = [
            one.name + (f" ({one.updates} of {steps} updates)" if (steps := _steps(one)) else "")
            for one in swept.members
            if one.state == state
        ]
        if names:
            yield f"{said}, and not in the table: {', '.join(names)}."
    done = [one for one in swept.members if one.state == FINISHED]
    for metric in swept.metrics:
        found = {one.name: score(one, metric) for one in done}
        without = [name for name, value in found.items() if value is None]
        broken = [
            f"{name} ({value})" for name, value in found.items() if value is not None and not math.isfinite(value)
        ]
        if without:
            yield f"{metric} is in no file of results and no log of {', '.join(without)}."
        if broken:
            yield f"{metric} is no finite number, and does not count, of {', '.join(broken)}."
    for one in done:
        for result in one.results:
            if result.step is not None and result.step != one.updates:
                yield f"{result.file} was measured at update {result.step}, but the run has {one.updates}."


def changed_configs(swept: Swept) -> Iterator[str]:
    """Give sentences about runs that differ in keys that no variant varies, as by other commands; of a config each."""
    varied = {"seed", *configuration.RESUMABLE, *(key for one in swept.members for key in one.differs)}
    firsts: dict[str, tuple[str, dict[str, str]]] = {}
    changed: dict[str, list[str]] = {}
    for one in swept.members:
        if one.config:
            flat = dict(configuration.flatten(one.config))
            first, base = firsts.setdefault(one.file, (one.name, flat))
            keys = [key for key in sorted({*flat, *base}) if flat.get(key) != base.get(key)]
            odd = [key for key in keys if not any(f"{key}.".startswith(f"{known}.") for known in varied)]
            words = "; ".join(f"{key} ({base.get(key, 'none')} there, {flat.get(key, 'none')} here)" for key in odd)
            changed.setdefault(f"{first} in what no variant varies: {words}" if odd else "", []).append(one.name)
    for words, names in changed.items():
        if words:
            yield f"{', '.join(names)} differ from {words}."


def changed_protocols(swept: Swept) -> Iterator[str]:
    """Give sentences about evaluations that cannot be compared with the first, as measured otherwise."""
    found: dict[str, list[tuple[str, Evaluated]]] = {}
    for one in swept.members:
        for result in one.results if one.state == FINISHED else ():
            found.setdefault(result.protocol, []).append((one.name, result))
    for protocol, ((first, base), *others) in found.items():
        changed: dict[str, list[str]] = {}
        for name, result in others:
            changed.setdefault("; ".join(changed_conditions(base, result)), []).append(name)
        for words, names in changed.items():
            if words:
                yield f"{protocol} of {', '.join(names)} was measured otherwise than of {first}: {words}."


def measured_how(swept: Swept) -> list[Section]:
    """Return the arguments of each protocol, those of the first run that has it."""
    found: dict[str, Evaluated] = {}
    for one in swept.members:
        for result in one.results:
            found.setdefault(result.protocol, result)
    return [Section("How it was evaluated", [how_measured(found)], closed=True)] if found else []


def scale(swept: Swept) -> Table:
    """Return at what scale it ran: a row a fact, with all that variants have of it."""
    examples = {name: one for name, one in swept.examples.items() if one.config}
    facts: dict[str, Callable[[Member], str]] = {
        "objective": lambda one: str(one.config["objective"]["name"]),
        "updates": lambda one: f"{_steps(one):,}",
        "samples an update": lambda one: f"{one.config['batch_size']:,}",
        "image size (pixels)": _image_size,
        "data": _data,
    }
    values = {title: {name: fact(one) for name, one in examples.items()} for title, fact in facts.items()}
    values["parameters of the encoder"] = _all_parameters(examples)
    rows = [("budget", swept.budget or _UNSAID), *((title, Text(_by_value(found))) for title, found in values.items())]
    devices = {one.name: _devices(one) for one in swept.members if one.starts}
    rows.append(("devices", Text("; ".join(dict.fromkeys(devices.values())) or _UNSAID)))
    times = [one.seconds for one in swept.members if one.seconds is not None]
    if times:
        spread = f"{_duration(np.median(times))} ({_duration(min(times))} to {_duration(max(times))})"
        rows.append(("time a run, with evaluations: median (smallest to largest)", spread))
    return Table(("", ""), rows)


def summary(swept: Swept) -> str:
    """Return how much was run, in a sentence or two for readers who see nothing else."""
    done, every = sum(one.state == FINISHED for one in swept.members), len(swept.members)
    begun = [one for one in swept.examples.values() if one.config]
    steps, sizes = sorted({_steps(one) for one in begun}), sorted({one.config["batch_size"] for one in begun})
    parameters = _parameters(begun[0])
    text = (
        f"{every} runs of {len(swept.variants)} variants{f', of which {done} have finished' if done < every else ''}"
        f"{f', at the budget “{swept.budget}”' if swept.budget else ''}: {_range(steps)} updates of {_range(sizes)} "
        f"samples each{f', an encoder of {parameters} parameters' if parameters.replace(',', '').isdigit() else ''}."
    )
    return text if swept.budget == "paper" else f"{text} What differs at this scale need not differ at another."


def runs_table(swept: Swept) -> Table:
    """Return a row a run: how far it came, how long it took, on what."""
    rows = [
        (
            one.name,
            one.state,
            f"{one.updates:,}",
            _duration(one.seconds) if one.seconds is not None else "–",
            _devices(one) if one.starts else _UNSAID,
            str(len(one.starts)) if one.starts else "–",
        )
        for one in swept.members
    ]
    return Table(("run", "", "updates", "time", "devices", "starts"), rows)


def made_by(swept: Swept) -> list[Block]:
    """Return of what code the runs are, as a warning where they are not all of the same, or of none that is kept."""
    found: dict[str, list[str]] = {}
    for one in swept.members:
        for start in one.starts:
            found.setdefault(_code(start), []).append(one.name)
    changed = any(start.get("dirty") for one in swept.members for start in one.starts)
    if len(found) > 1:
        each = (f"{code} ({', '.join(dict.fromkeys(names))})" for code, names in found.items())
        return [Alert(f"The runs are not all of the same code: {'; '.join(each)}.")]
    text = f"Code: {next(iter(found), _UNSAID)}."
    return [Alert(text) if changed else text]


def _code(start: Mapping[str, Any]) -> str:
    """Return the commit of a start, with its changes, or the version of a package that is installed."""
    if "commit" not in start:
        return _UNSAID
    if start["commit"] is None:
        return f"ssljax {start.get('packages', {}).get('ssljax', '')} as installed"
    changes = f", with the changes in {start['dirty']} of the run" if start.get("dirty") else ""
    return f"commit {start['commit'][:12]}{changes}"


def _steps(member: Member) -> int:
    return build.total_steps(ConfigDict(member.config)) if member.config else 0


def _image_size(member: Member) -> str:
    try:
        return str(build.image_size(ConfigDict(member.config)))
    except InputError as error:
        return f"unknown ({error})"


def _parameters(member: Member) -> str:
    """Return the number of parameters of a run's encoder, or why that is not known."""
    try:
        params, _ = jax.eval_shape(build.objective(ConfigDict(member.config)).init, jax.random.key(0))
    except InputError as error:
        return f"unknown ({error})"
    return f"{sum(leaf.size for leaf in jax.tree.leaves(params['encoder'])):,}"


def _all_parameters(examples: Mapping[str, Member]) -> dict[str, str]:
    """Return those of all variants, counted once for variants of the same models."""
    models = {name: json.dumps(one.config["models"]) for name, one in examples.items()}
    counted = {models[name]: one for name, one in examples.items()}
    numbers = {model: _parameters(one) for model, one in counted.items()}
    return {name: numbers[model] for name, model in models.items()}


def _data(member: Member) -> str:
    data = member.config["data"]
    return ", ".join([str(data["name"]), *(str(data[key]) for key in _PLACES if data.get(key))])


def _devices(member: Member) -> str:
    return ", ".join(dict.fromkeys(f"{one.get('devices', '?')} × {one.get('kind', '?')}" for one in member.starts))


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def _by_value(values: Mapping[str, str]) -> str:
    """Return what variants have in common, or each value with those that have it."""
    found: dict[str, list[str]] = {}
    for name, value in values.items():
        found.setdefault(value, []).append(name)
    if len(found) < 2:
        return next(iter(found), _UNSAID)
    return "; ".join(f"{value} ({', '.join(names)})" for value, names in found.items())


def _range(values: Sequence[int]) -> str:
    return f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"
