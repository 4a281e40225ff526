"""What a command says while it works: notes and progress bars, on stderr only, silent after ``set_quiet(True)``.

On a terminal progress is a bar with the time left; elsewhere (a log file, a notebook's captured output) it is one line
every few seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

_LINE_EVERY_S = 10.0
_quiet = False


def set_quiet(quiet: bool) -> None:
    """Silence (or restore) notes and progress for the whole process."""
    global _quiet
    _quiet = quiet


@contextmanager
def silence() -> Iterator[None]:
    """No notes and no progress inside the block; as it was before afterwards."""
    before = _quiet
    set_quiet(True)
    try:
        yield
    finally:
        set_quiet(before)


def note(message: str) -> None:
    """Say one line on stderr: a choice made automatically and its reason, a file written, a thing skipped."""
    if not _quiet:
        print(message, file=sys.stderr, flush=True)


class Progress:
    """A progress bar as a context manager.

    ``total`` counts ``unit``s (for example texts); ``advance(n)`` moves it on. ``done`` starts a resumed job part-way, so
    that the time left is that of what remains.
    """

    def __init__(self, description: str, total: int, unit: str, done: int = 0) -> None:
        self.description, self.total, self.unit, self.done = description, total, unit, done
        self._start_done = done
        self._started_s = time.monotonic()
        self._last_line_s = self._started_s
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        self._started_s = self._last_line_s = time.monotonic()
        if not _quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(self.unit),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[status]}"),
                console=Console(stderr=True),
                transient=False,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.description, total=self.total, completed=self.done, status="")
        return self

    def advance(self, n: int = 1, status: str = "") -> None:
        """Count ``n`` more units as done; ``status`` is a few words on how it goes, shown beside them."""
        self.done += n
        if self._bar is not None:
            self._bar.update(self._task, advance=n, status=status)
            return
        now_s = time.monotonic()
        if not _quiet and now_s - self._last_line_s >= _LINE_EVERY_S:
            self._last_line_s = now_s
            fresh = max(self.done - self._start_done, 1)
            left_s = (now_s - self._started_s) / fresh * (self.total - self.done)
            how = f" ({status})" if status else ""
            note(f"{self.description}: {self.done:,} of {self.total:,} {self.unit}{how}, about {left_s:,.0f} s left")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None and not _quiet:
            elapsed_s = time.monotonic() - self._started_s
            note(f"{self.description}: {self.done:,} {self.unit} in {elapsed_s:.1f} s")
