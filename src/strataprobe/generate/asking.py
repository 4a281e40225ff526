"""Which cells still want a text, and what becomes of each answer. Backends differ only in how they get answers."""

from __future__ import annotations

import time
from collections.abc import Sequence

from strataprobe.generate.acceptance import Acceptance, cleaned
from strataprobe.generate.cells import Cell
from strataprobe.generate.ledger import Entry, Ledger
from strataprobe.generate.prompts import Messages, messages
from strataprobe.progress import Progress
from strataprobe.recipe import Recipe

# So much of a rejected answer is kept.
_KEPT_CHARACTERS = 2_000
_ENOUGH = 200
_NEXT_TO_NONE = 0.02


class Asking:
    """One job of asking for the texts of ``plan``.

    A rejected cell is asked again, at most ``max_attempts`` times, interruptions or not, until the job gives up; a later
    one on the same ledger has as many attempts anew. When next to none of the first ``_ENOUGH`` answers was accepted,
    nothing more is asked. Not for several threads: answers are settled one after another.
    """

    def __init__(
        self,
        recipe: Recipe,
        plan: Sequence[Cell],
        acceptance: Acceptance,
        ledger: Ledger,
        bar: Progress,
        max_attempts: int,
    ) -> None:
        self.recipe, self.plan, self.acceptance, self.ledger = recipe, plan, acceptance, ledger
        self.max_attempts = max_attempts
        self._bar = bar
        self._n_asked = self._n_accepted = 0
        self._started_s = time.monotonic()
        for entry in ledger.entries:
            if entry.accepted:
                acceptance.remember(entry.text)
        self._n_settled = len(ledger.entries) - ledger.n_before
        self._n_good = sum(entry.accepted for entry in ledger.entries[ledger.n_before :])

    def open(self) -> list[Cell]:
        """The cells without an accepted text that may be asked (again), in plan order."""
        return [c for c in self.plan if self.ledger.accepted(c.id) is None and self.may_ask(c)]

    def missing(self) -> list[Cell]:
        """The cells without an accepted text, in plan order."""
        return [c for c in self.plan if self.ledger.accepted(c.id) is None]

    def may_ask(self, cell: Cell) -> bool:
        """Whether there are attempts left for a cell."""
        return self.ledger.attempts(cell.id) < self.max_attempts and not self.is_hopeless

    @property
    def is_hopeless(self) -> bool:
        """Whether so few answers are accepted that asking on would be a waste."""
        return self._n_settled >= _ENOUGH and self._n_good < _NEXT_TO_NONE * self._n_settled

    def messages(self, cell: Cell, attempt: int | None = None) -> Messages:
        """The messages of a cell's ``attempt`` (its next one where None); from the second on they say what was wrong."""
        entries = self.ledger.of(cell.id)
        before = len(entries) if attempt is None else attempt - 1
        return messages(self.recipe, cell, entries[before - 1].advice if before else "")

    def settle(
        self, cell: Cell, answer: str, problem: tuple[str, str] | None = None, parts: Sequence[str] = ()
    ) -> bool:
        """Check an answer, put it on disk, count it; True when the cell has its text now.

        ``problem`` is a (check, finding) that the backend knows of already: no answer at all, or one that was cut off.
        """
        text = cleaned(answer)
        attempt, model = len(self.ledger.of(cell.id)) + 1, self.ledger.model
        if problem is not None:
            entry = Entry(
                cell.id, attempt, text[:_KEPT_CHARACTERS], model, *problem, advice=self.acceptance.advice(*problem)
            )
        else:
            prompt = "" if parts else self.messages(cell)[-1]["content"]
            rejection = self.acceptance.find(text, prompt)
            if rejection is None:
                entry = Entry(cell.id, attempt, text, model, parts=tuple(parts))
            else:
                entry = Entry(
                    cell.id, attempt, text[:_KEPT_CHARACTERS], model, rejection.check, rejection.found, rejection.advice
                )
        self.ledger.add(entry)
        self._n_asked += 1
        self._n_settled += 1
        self._n_good += entry.accepted
        if entry.accepted:
            self.acceptance.remember(text)
            self._n_accepted += 1
        self._bar.advance(int(entry.accepted), self._status())
        return entry.accepted

    def _status(self) -> str:
        rate = self._n_accepted / max(time.monotonic() - self._started_s, 1e-9)
        share = self._n_accepted / self._n_asked
        return f"{self._n_accepted:,} accepted / {self._n_asked:,} asked ({share:.0%}), {rate:.1f} texts/s"
