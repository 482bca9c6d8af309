"""`ssljax report RUN`: from a run's folder to its page."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ssljax import build, configuration
from ssljax.errors import InputError
from ssljax.report.clip import Clip
from ssljax.report.page import Alert, Block, Code, Links, Section, Table, Text, write_page
from ssljax.report.results import result_sections
from ssljax.report.study import INITIALISATIONS, SAMPLES, Study, choose_clip, read_samples, study
from ssljax.report.training import training_section

NOTE = (
    f"Measured on the first {SAMPLES} samples of the run's data, with what the objective logs while it trains; the "
    f"initialisation's is a mean over {INITIALISATIONS} of them, with smallest and largest in brackets."
)
TRACKS_NOTE = (
    "Consistency: how much better a tracked region matches itself in the next frame than it matches the other regions; "
    "0 is chance, and 1 is reached by distinct regions that are always found again. Overlap of two objects: the "
    "share of their patches that they have in common; 1 means that nothing tells them apart. Each is a mean over draws "
    f"of the heads that objects start from; the initialisation's, over {INITIALISATIONS} of them, with smallest and "
    "largest in brackets. Masks held still are the first frame's, repeated: what standing still would score."
)


def write_report(
    workdir: Path,
    *,
    step: int | None = None,
    video: Path | None = None,
    seconds: Sequence[float] | None = None,
    links: Sequence[Path] = (),
    output: Path | None = None,
) -> Path:
    """Write a page about a run, by default report/index.html in its folder, and return its path.

    It holds all numbers and pictures: how far and how fast the run went, what `ssljax evaluate` found of it, curves of
    all that it logged, the trained networks beside those that the run started from, tracks in a prepared video of a ViT
    by DoRA or DINO, reconstructions of a masked autoencoder. The pictures lie beside the page too.

    Args:
        workdir: Of the run.
        step: Which checkpoint; the newest by default.
        video: A prepared video; the run's first by default.
        seconds: Its part to show; by default what training left out at its end, or else its last seconds.
        links: Files to link.
        output: A folder, or an HTML file.

    Raises:
        InputError: There is no such run, checkpoint, video or part of it, or a video to show of a run without tracks;
            or a file of results is damaged.
    """
    check_links(links)
    with opened(output or workdir / "report") as (page, folder):
        run = build.restore(workdir, step)
        samples = read_samples(workdir, run)
        shown = study(workdir, run, samples, choose_clip(run, samples, video, seconds), folder)
        done = int(shown.run.state.step)
        sections = [
            Section("The run", [Table(("", ""), list(shown.numbers.items()))]),
            Section("Trained, and at random initialisation", _scores(shown)),
            *evaluation_sections({workdir.name: shown}),
            training_section({"": shown.metrics}, folder),
            *(Section(figure.title, [figure._replace(title="")]) for figure in shown.figures),
            *link_sections(links, page.parent),
            Section("How it was made", [Code(command([workdir], step, video, seconds, output))]),
            Section("Configuration", [_configuration(shown)], closed=True),
        ]
        title = f"{type(shown.run.objective).__name__} after {done} updates"
        return write_page(page, title=title, summary=_summary(workdir, shown.clip), sections=sections)


@contextlib.contextmanager
def opened(output: Path) -> Iterator[tuple[Path, Path]]:
    """Give the page's file and a folder for pictures: the page's own, or, where a file is named, one that is removed.

    Raises:
        InputError: Something else lies there, the name is that of another kind of file, or it cannot be written.
    """
    if output.suffix.lower() in (".html", ".htm"):
        _check_writable(output, output)
        with tempfile.TemporaryDirectory() as folder:
            yield output, Path(folder)
        return
    if output.is_file() or (output.suffix and not output.is_dir()):
        raise InputError(f"--output {output}: give a folder, or a file that ends in .html.")
    _check_writable(output, output / "index.html")
    yield output / "index.html", output


def _check_writable(output: Path, page: Path) -> None:
    """Raise InputError where a page cannot be written, before anything is measured for it; leave all as it was."""
    try:
        made = [folder for folder in page.parents if not folder.exists()]
        new = not page.exists()
        page.parent.mkdir(parents=True, exist_ok=True)
        page.open("a").close()
        if new:
            page.unlink()
        for folder in made:
            folder.rmdir()
    except OSError as error:
        raise InputError(f"--output {output} cannot be written ({error.strerror}); name another place.") from error


def check_links(links: Sequence[Path]) -> None:
    """Raise InputError where a file to link is missing."""
    missing = [str(link) for link in links if not link.exists()]
    if missing:
        raise InputError(f"--link {missing[0]}: no such file; give files that exist.")


def link_sections(links: Sequence[Path], folder: Path) -> list[Section]:
    """Return the section of files to link from a page in a folder, if there are any."""
    return [Section("Files", [Links([(os.path.relpath(link, folder), link.name) for link in links])])] if links else []


def command(
    workdirs: Sequence[Path],
    step: int | None,
    video: Path | None,
    seconds: Sequence[float] | None,
    output: Path | None = None,
) -> str:
    """Return what to type for the page."""
    options = {
        "--step": step,
        "--video": video,
        "--seconds": seconds and " ".join(f"{second:g}" for second in seconds),
        "--output": output,
    }
    given = [f"{name} {value}" for name, value in options.items() if value is not None]
    return " ".join(["ssljax report", *map(str, workdirs), *given])


def evaluation_sections(shown: Mapping[str, Study]) -> list[Section]:
    """Return what `ssljax evaluate` found of runs by their names, if anything."""
    steps = {name: int(one.run.state.step) for name, one in shown.items()}
    sections = result_sections({name: one.results for name, one in shown.items()}, steps)
    return [Section("Evaluation", sections)] if sections else []


def _scores(shown: Study) -> list[Block]:
    lacking: list[Block] = [Alert(shown.lacking)] if shown.lacking else []
    if not shown.trained:
        return lacking
    rows = [
        (title, f"{value:.3f}", _spread([one[title] for one in shown.random])) for title, value in shown.trained.items()
    ]
    table = Table(("", "trained", "at random initialisation"), rows)
    return [*lacking, table, NOTE if shown.clip is None else TRACKS_NOTE]


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _configuration(shown: Study) -> Table:
    values = configuration.flatten(shown.run.config.to_dict())
    return Table(("key", "value"), [(key, Text(value)) for key, value in values])


def _summary(workdir: Path, clip: Clip | None) -> str:
    if clip is None:
        return f"{workdir.resolve().name}: what the run logged, and its numbers beside those that it started from."
    seen = ", which training never used." if clip.unseen else "."
    return f"{clip.name}, seconds {clip.times[0]:.1f} to {clip.times[-1]:.1f}{seen}"
