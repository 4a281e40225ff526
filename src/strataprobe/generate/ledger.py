"""The ledger: every answer as it came in, a line each, on disk before it counts; what a restart goes on from."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

# Hidden, so that it is no file of the finished folder and can stay until that is in place.
LEDGER_NAME = ".ledger.jsonl"
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

    def _read(self) -> None:
        kept_bytes = 0
        with self._path.open("rb") as file:
            for line in file:
                entry = _parsed(line)
                if entry is None:
                    break
                self._count(entry)
                kept_bytes += len(line)
        os.truncate(self._path, kept_bytes)


def _parsed(line: bytes) -> Entry | None:
    if not line.endswith(b"\n"):
        return None
    try:
        value = json.loads(line)
        entry = Entry(**{**value, "parts": tuple(value.get("parts", ()))})
    except (ValueError, TypeError, AttributeError):
        return None
    words = (entry.cell, entry.text, entry.model, entry.check, entry.found, entry.advice, *entry.parts)
    return entry if type(entry.attempt) is int and all(isinstance(w, str) for w in words) else None
