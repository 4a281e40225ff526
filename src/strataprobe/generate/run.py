"""Run the generate stage: a backend writes texts for every cell of a plan, into one finished folder.

Every answer is on disk before it counts. A restart under the same options asks only for the cells without an accepted
text; where the backend itself is repeatable, the files are the same bytes as an uninterrupted run's.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from strataprobe.dataset import Text
from strataprobe.errors import BackendError, OptionError
from strataprobe.generate.acceptance import Acceptance
from strataprobe.generate.asking import Asking
from strataprobe.generate.audit import audit
from strataprobe.generate.backends import BackendOptions, check_name, default_llm, open_backend
from strataprobe.generate.builtin.backend import Builtin
from strataprobe.generate.cells import Cell, in_file_order, make_cells
from strataprobe.generate.folder import STAGE, write_folder
from strataprobe.generate.judge import Judge, open_judge
from strataprobe.generate.ledger import LEDGER_NAME, Entry, Ledger
from strataprobe.locks import release_lock
from strataprobe.manifest import Manifest, StageFolder, write_atomic
from strataprobe.progress import Progress, note
from strataprobe.recipe import Recipe

PLAN_NAME = "plan.jsonl"
REJECTED_NAME = "rejected.jsonl"


def generate(
    recipe: Recipe,
    out: Path,
    *,
    backend: str = "builtin",
    n_per_class: int | None = None,
    seed: int = 0,
    options: BackendOptions | None = None,
    judge: str | None = None,
    allow_missing: bool = False,
) -> Manifest:
    """Write ``n_per_class`` texts for each class of ``recipe`` (its own number where None) into the folder ``out``.

    A finished folder made with the same options is left as it is; an interrupted one is completed. ``judge`` names a
    second model that labels the texts anew, for the audit. ``allow_missing`` finishes the folder also when cells are
    left without a text after ``options.max_attempts``.

    Raises OptionError for an unknown backend, a number below 1, a recipe that the built-in writer has no material for,
    or more texts than its material yields without repeating itself; BackendError when a server is not there, stops
    answering, or texts are missing; StageError when ``out`` holds something else.
    """
    check_name(backend)
    options = options or BackendOptions()
    n = recipe.n_per_class if n_per_class is None else n_per_class
    if n < 1:
        raise OptionError(f"--n-per-class is {n}, it must be at least 1.")
    llm = default_llm(backend, options, recipe.model)
    config = {
        "recipe": recipe.to_json(),
        "backend": backend,
        "llm": llm,
        "n_per_class": n,
        "seed": seed,
        "judge": judge,
    }
    writer = Builtin(recipe) if backend == "builtin" else None
    stage = StageFolder(out, STAGE, config)
    done = stage.finished()
    if done is not None:
        (out / LEDGER_NAME).unlink(missing_ok=True)
        note(f"generate: {out} is complete, skipped.")
        return done
    started_s = time.monotonic()
    asked = writer or open_backend(backend, options, recipe.model)
    judged_by = open_judge(judge, backend, options) if judge else None
    stage.begin()
    plan = writer.plan(n, seed) if writer else make_cells(recipe, n, seed)
    write_atomic(stage.work / PLAN_NAME, "".join(_line(cell.to_json()) for cell in plan))
    try:
        with Ledger(stage.work / LEDGER_NAME, asked.identity.name) as ledger:
            missing = _ask(recipe, plan, ledger, asked, options, seed)
            if missing and not allow_missing:
                raise BackendError(_what_is_missing(missing, plan, ledger))
    except OptionError:
        shutil.rmtree(stage.work)  # no restart under these options can end better
        release_lock(out)
        raise
    rows, pairs = _rows(recipe, plan, ledger, backend)
    rows = in_file_order(rows, pairs, seed)
    judgement = _judge(judged_by, recipe, rows, stage.work) if judged_by else None
    _write_rejected(stage.work / REJECTED_NAME, ledger)
    asked_for = {**_asked_for(ledger, len(missing)), **asked.details()}
    report = audit(rows, recipe, asked=asked_for, judge=judgement)
    details = {"missing": len(missing)} | ({} if writer else {"temperature": options.temperature})
    manifest = Manifest(stage=STAGE, config=config, model=asked.identity, details=details)
    manifest = write_folder(stage, manifest, recipe.name, rows, report, started_s)
    (out / LEDGER_NAME).unlink(missing_ok=True)  # the last thing: a run killed before asks for nothing twice
    return manifest


def _ask(
    recipe: Recipe, plan: Sequence[Cell], ledger: Ledger, backend: Any, options: BackendOptions, seed: int
) -> list[Cell]:
    """Ask for every cell that the ledger has no text for; the cells that are left without one."""
    there = sum(ledger.accepted(cell.id) is not None for cell in plan)
    if there:
        note(f"generate: {there:,} of {len(plan):,} texts were there already.")
    acceptance = Acceptance(recipe, check_language=backend.name != "builtin")
    with Progress("write", len(plan), "texts", there) as bar:
        asking = Asking(recipe, plan, acceptance, ledger, bar, options.max_attempts)
        if asking.open():
            backend.write(asking, seed)
    return asking.missing()


def _rows(recipe: Recipe, plan: Sequence[Cell], ledger: Ledger, backend: str) -> tuple[list[Text], list[int]]:
    """The rows of the accepted texts in plan order, and the pair of each."""
    rows, pairs = [], []
    for cell in plan:
        entry = ledger.accepted(cell.id)
        if entry is not None:
            written_by = {"backend": backend, "model": entry.model, "attempt": entry.attempt}
            rows.append(cell.row(recipe, entry.text, written_by))
            pairs.append(cell.pair)
    return rows, pairs


def _what_is_missing(missing: Sequence[Cell], plan: Sequence[Cell], ledger: Ledger) -> str:
    by_class = Counter(cell.label for cell in missing)
    classes = ", ".join(f"{n:,} {name}" for name, n in sorted(by_class.items()))
    reasons = Counter(entry.check for entry in ledger.rejected()).most_common(3)
    why = ", ".join(f"{name} {n:,}" for name, n in reasons)
    return (
        f"{len(missing):,} of {len(plan):,} texts are missing ({classes}), their answers were rejected (most often: {why}): "
        "the texts so far are kept, so run the same command to ask for the missing ones again, with a higher "
        "--max-attempts where that is not enough, or add --allow-missing to go on without them."
    )


def _asked_for(ledger: Ledger, n_missing: int) -> dict[str, Any]:
    rejected = Counter(entry.check for entry in ledger.rejected())
    n = len(ledger.entries)
    return {
        "answers": n,
        "accepted": n - rejected.total(),
        "acceptance_rate": round((n - rejected.total()) / n, 4) if n else None,
        "missing": n_missing,
        "rejected": dict(sorted(rejected.items(), key=lambda item: (-item[1], item[0]))),
    }


def _write_rejected(path: Path, ledger: Ledger) -> None:
    """The answers that were not accepted, by cell and attempt, where there are any."""

    def line(entry: Entry) -> str:
        return _line({"cell": entry.cell, "attempt": entry.attempt, "check": entry.check, "found": entry.found,
                      "text": entry.text})  # fmt: skip

    rejected = sorted(ledger.rejected(), key=lambda entry: (entry.cell, entry.attempt))
    if rejected:
        write_atomic(path, "".join(line(entry) for entry in rejected))


def _judge(judge: Judge, recipe: Recipe, rows: Sequence[Text], work: Path) -> dict[str, Any]:
    found = judge.agreement(recipe, rows, work)
    note(f"judge: {found['model']} agrees with {found['agreement']:.1%} of {found['n']:,} labels.")
    return found


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"
