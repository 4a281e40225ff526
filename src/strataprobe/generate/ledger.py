"""The ledger: every answer as it came in, a line each, on disk before it counts; what a restart goes on from."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from strataprobe.errors import StageError

# Hidden, so that it is no file of the finished folder and can stay until that is in place.
LEDGER_NAME = ".ledger.jsonl"
_GAVE_UP = '{"gave_up": true}\n'
_ALWAYS = ("cell", "attempt", "text")


@dataclass(frozen=True)
class Entry:
    """One answer: ``check`` is "" when it was accepted, else the name of the check it failed and what that found.

    ``attempt`` counts from 1 for each cell. ``parts`` are the sentences the built-in writer composed the text of.
    """

    cell: str
    attempt: int
    text: str
    model: str = ""
    check: str = ""
    found: str = ""
    advice: str = ""
    parts: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether the text is one of the result's."""
        return not self.check


class Ledger:
    """The entries of one job, in order; new ones are ``model``'s. A torn last line (of a killed job) is cut off."""

    def __init__(self, path: Path, model: str = "") -> None:
        self._path, self.model = path, model
        self.entries: list[Entry] = []
        self.n_before = 0
        self._before: dict[str, int] = {}
        self._by_cell: dict[str, list[Entry]] = defaultdict(list)
        if path.exists():
            self._read()

    def __enter__(self) -> Ledger:
        self._file = self._path.open("a", encoding="utf-8", newline="\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, entry: Entry) -> None:
        """Write an entry, hand it to the system, and only then count it."""
        value = {k: v for k, v in asdict(entry).items() if v not in ("", ()) or k in _ALWAYS}
        self._file.write(json.dumps(value, ensure_ascii=False) + "\n")
        self._file.flush()
        self._count(entry)

    def give_up(self) -> None:
        """Write that the attempts allowed are used up: a later job on this ledger has them anew."""
        self._file.write(_GAVE_UP)
        self._file.flush()
        self._start_anew()

    @property
    def gave_up(self) -> bool:
        """Whether nothing was asked since the attempts allowed were used up."""
        return bool(self._before) and self.n_before == len(self.entries)

    def attempts(self, cell_id: str) -> int:
        """How often a cell was asked, not counting what was before the attempts were last used up."""
        return len(self.of(cell_id)) - self._before.get(cell_id, 0)

    def of(self, cell_id: str) -> list[Entry]:
        """The entries of one cell, in order."""
        return self._by_cell.get(cell_id, [])

    def accepted(self, cell_id: str) -> Entry | None:
        """The accepted entry of a cell, None when there is none yet."""
        own = self._by_cell.get(cell_id)
        return own[-1] if own and own[-1].accepted else None

    def rejected(self) -> Iterable[Entry]:
        """The entries that were not accepted, in order."""
        return (entry for entry in self.entries if not entry.accepted)

    def _count(self, entry: Entry) -> None:
        self.entries.append(entry)
        self._by_cell[entry.cell].append(entry)

    def _start_anew(self) -> None:
        self.n_before = len(self.entries)
        self._before = {cell: len(entries) for cell, entries in self._by_cell.items()}

    def _read(self) -> None:
        kept_bytes = 0
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):  # the job was killed while it wrote this
                    break
                if line == _GAVE_UP.encode():
                    self._start_anew()
                else:
                    self._count(_parsed(line, f"{self._path}, line {number}"))
                kept_bytes += len(line)
        os.truncate(self._path, kept_bytes)


def _parsed(line: bytes, place: str) -> Entry:
    """The entry of a line. Raises StageError, naming the line, for one that holds something else."""
    try:
        value = json.loads(line)
        entry = Entry(**{**value, "parts": tuple(value.get("parts", ()))})
        words = (entry.cell, entry.text, entry.model, entry.check, entry.found, entry.advice, *entry.parts)
        if type(entry.attempt) is int and all(isinstance(word, str) for word in words):
            return entry
    except (ValueError, TypeError, AttributeError):
        pass
    raise StageError(f"{place} is damaged: take that line out of the file and run the same command again.")
