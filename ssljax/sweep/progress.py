"""How a sweep stands: a bar for all and one for each running run on a terminal, else lines."""

from __future__ import annotations

import collections
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ssljax.sweep import folder as folders

MINUTE = 60.0


class Progress:
    """Tells of changes, and shows how far running runs are; a context manager."""

    def __init__(self, folder: Path, updates: Mapping[str, int], *, terminal: bool | None = None) -> None:
        """Remember what there is.

        Args:
            folder: Of the sweep.
            updates: Of each run by name.
            terminal: Whether standard error is one.
        """
        self._folder, self._updates = folder, dict(updates)
        self._terminal = sys.stderr.isatty() if terminal is None else terminal
        self._states: dict[str, str] = {}
        self._told = time.monotonic()
        self._bars: dict[str, Any] = {}
        self._all: Any = None

    def __enter__(self) -> Progress:
        """Open the bar of all."""
        if self._terminal:
            self._all = tqdm(total=len(self._updates), unit="run", position=0, dynamic_ncols=True, file=sys.stderr)
        return self

    def __exit__(self, *_: object) -> None:
        """Close the bars."""
        for bar in (*self._bars.values(), self._all):
            if bar is not None:
                bar.close()

    def say(self, sentence: str) -> None:
        """Print a line above the bars."""
        tqdm.write(sentence, file=sys.stderr)
        sys.stderr.flush()

    def show(self, states: Mapping[str, str]) -> None:
        """Take in how all runs stand."""
        for name, state in states.items():
            if state != self._states.get(name, folders.WAITING) and (self._states or state == folders.RUNNING):
                self.say(f"{state:9}{name}{self._why(name) if state == folders.FAILED else ''}")
        self._states = dict(states)
        running = [name for name, state in states.items() if state == folders.RUNNING]
        if self._terminal:
            self._draw(states, running)
        elif time.monotonic() - self._told >= MINUTE:
            self._told = time.monotonic()
            parts = [f"{name} {self._far(name)}" for name in running[:8]]
            more = f" and {len(running) - 8} more" if len(running) > 8 else ""
            self.say("; ".join([self._counts(states), ", ".join(parts) + more] if parts else [self._counts(states)]))

    def _draw(self, states: Mapping[str, str], running: Sequence[str]) -> None:
        for name in set(self._bars) - set(running):
            self._bars.pop(name).close()
        for name in running:
            if name not in self._bars:
                used = {abs(bar.pos) for bar in self._bars.values()}
                free = next(place for place in range(1, len(self._bars) + 2) if place not in used)
                self._bars[name] = tqdm(
                    total=self._updates[name],
                    desc=name,
                    unit="update",
                    position=free,
                    leave=False,
                    dynamic_ncols=True,
                    file=sys.stderr,
                    initial=folders.updates_done(self._folder / name)[0],
                )
            done, loss = folders.updates_done(self._folder / name)
            bar = self._bars[name]
            bar.n = done
            bar.set_postfix_str(self._doing(name, done, loss))
        self._all.n = sum(state in (folders.FINISHED, folders.FAILED) for state in states.values())
        self._all.set_postfix_str(self._counts(states))

    def _doing(self, name: str, done: int, loss: float | None) -> str:
        if done >= self._updates[name]:
            return "evaluating"
        return "starting" if loss is None else f"loss {loss:.3f}"

    def _far(self, name: str) -> str:
        done, loss = folders.updates_done(self._folder / name)
        return f"{done}/{self._updates[name]} ({self._doing(name, done, loss)})"

    def _counts(self, states: Mapping[str, str]) -> str:
        counts = collections.Counter(states.values())
        order = (folders.FINISHED, folders.RUNNING, folders.WAITING, folders.FAILED)
        return ", ".join(f"{counts[state]} {state}" for state in order if counts[state]) + f" of {len(states)}"

    def _why(self, name: str) -> str:
        found = folders.read_json(self._folder / name / "failed.json") or {}
        return f": {found['error']}" if "error" in found else ""
