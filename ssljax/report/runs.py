"""`ssljax report RUN1 RUN2 ...`: runs side by side on one page."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssljax import build, configuration
from ssljax.errors import InputError
from ssljax.report.page import Alert, Block, Code, Section, Table, Text, write_page
from ssljax.report.run import check_links, command, evaluation_sections, link_sections, opened
from ssljax.report.study import INITIALISATIONS, SAMPLES, Study, choose_clip, read_samples, study, tracks
from ssljax.report.training import legend, training_section

_MANY_KEYS = 20
_NOTE = (
    f"Measured on the first {SAMPLES} samples of each run's own data; in brackets what random initialisation scores, a "
    f"mean over {INITIALISATIONS}. Losses of different objectives, and numbers of different data, do not compare."
)


def write_comparison(
    workdirs: Sequence[Path],
    output: Path | None,
    *,
    step: int | None = None,
    video: Path | None = None,
    seconds: Sequence[float] | None = None,
    links: Sequence[Path] = (),
) -> Path:
    """Write a page that sets runs side by side, of whatever objectives, and return its path.

    It holds in what their configs differ, their numbers and what `ssljax evaluate` found of each in common tables,
    curves over each other, and the pictures of each. In a folder, the pictures of each run lie in one of their own.

    Args:
        workdirs: Of the runs.
        output: A folder, or an HTML file.
        step: Which checkpoint of each; the newest by default.
        video: A prepared video to show tracks in, of those that have them.
        seconds: Its part.
        links: Files to link.

    Raises:
        InputError: There is no `output`, a run is named twice, or one cannot be shown; see `write_report`.
    """
    if output is None:
        raise InputError("Several runs need --output: a folder for the page, or a file that ends in .html.")
    check_links(links)
    names = short_names(workdirs)
    with opened(output) as (page, folder):
        shown: dict[str, Study] = {}
        for name, workdir in zip(names, workdirs, strict=True):
            run = build.restore(workdir, step)
            samples = read_samples(workdir, run)
            clip = choose_clip(run, samples, video, seconds) if tracks(run) else None
            shown[name] = study(workdir, run, samples, clip, folder / name.replace("/", "_"))
        if (video or seconds) and not any(tracks(one.run) for one in shown.values()):
            raise InputError("--video and --seconds choose where tracks are shown, and none of these runs has any.")
        sections = [
            Section("The runs", [legend(names), _numbers(shown)]),
            differences_section({name: configuration.plain(one.run.config) for name, one in shown.items()}),
            Section("What the objectives measure", _scores(shown)),
            *evaluation_sections(shown),
            training_section({name: one.metrics for name, one in shown.items()}, folder),
            *_pictures(shown),
            *link_sections(links, page.parent),
            Section("How it was made", [Code(command(workdirs, step, video, seconds, output))]),
        ]
        summary = ", ".join(f"{name} ({type(one.run.objective).__name__})" for name, one in shown.items())
        return write_page(page, title=f"{len(names)} runs side by side", summary=summary, sections=sections)


def short_names(workdirs: Sequence[Path]) -> list[str]:
    """Return names of the folders that tell them apart: the last parts of their paths, as few as do.

    Raises:
        InputError: One is named twice.
    """
    places = [workdir.resolve() for workdir in workdirs]
    twice = [str(place) for place in places if places.count(place) > 1]
    if twice:
        raise InputError(f"{twice[0]} is named twice; name different runs.")
    count = 1
    while len({place.parts[-count:] for place in places}) < len(places):
        count += 1
    return ["/".join(place.parts[-count:]) for place in places]


def _numbers(shown: Mapping[str, Study]) -> Table:
    rows = dict.fromkeys(title for one in shown.values() for title in one.numbers)
    return Table(("", *shown), [(row, *(one.numbers.get(row, "–") for one in shown.values())) for row in rows])


def differences_section(configs: Mapping[str, Mapping[str, Any]], leave_out: Collection[str] = ()) -> Section:
    """Return the keys in which plain configs differ, but for those that only change where and how a run is made.

    Args:
        configs: By the names of the runs.
        leave_out: More keys of the top level to say nothing about.
    """
    unsaid = {*configuration.RESUMABLE, *leave_out}
    flat = {
        name: dict(configuration.flatten({key: value for key, value in config.items() if key not in unsaid}))
        for name, config in configs.items()
    }
    keys = sorted({key for values in flat.values() for key in values})
    rows = []
    for key in keys:
        values = [some.get(key, "–") for some in flat.values()]
        if len(set(values)) > 1:
            rows.append((key, *map(Text, values)))
    if not rows:
        return Section("Configuration", ["They are of the same config."])
    title = f"In what the configurations differ: {len(rows)} keys" if len(rows) > 1 else "The key that differs"
    return Section(title, [Table(("key", *configs), rows)], closed=len(rows) > _MANY_KEYS)


def _scores(shown: Mapping[str, Study]) -> list[Block]:
    lacking: list[Block] = [Alert(one.lacking) for one in shown.values() if one.lacking]
    titles = dict.fromkeys(title for one in shown.values() for title in one.trained)
    rows = [(title, *(_score(one, title) for one in shown.values())) for title in titles]
    measured: list[Block] = [Table(("", *shown), rows), _NOTE] if rows else []
    return lacking + measured


def _score(one: Study, title: str) -> str:
    if title not in one.trained:
        return "–"
    return f"{one.trained[title]:.3f} ({np.mean([scores[title] for scores in one.random]):.3f})"


def _pictures(shown: Mapping[str, Study]) -> Iterator[Section]:
    """Give a section a kind of picture, with that of each run below the other."""
    titles = dict.fromkeys(figure.title for one in shown.values() for figure in one.figures)
    for title in titles:
        yield Section(
            title,
            [
                figure._replace(title=name)
                for name, one in shown.items()
                for figure in one.figures
                if figure.title == title
            ],
        )
