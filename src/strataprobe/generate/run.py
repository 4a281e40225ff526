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

from strataprobe.dataset import Text, read_dataset
from strataprobe.errors import BackendError, OptionError
from strataprobe.generate.acceptance import Acceptance
from strataprobe.generate.asking import Asking
from strataprobe.generate.audit import audit
from strataprobe.generate.backends import BackendOptions, check_name, default_llm, open_backend
from strataprobe.generate.builtin.backend import REVISION, Builtin
from strataprobe.generate.cells import Cell, in_file_order, make_cells
from strataprobe.generate.folder import AUDIT_NAME, STAGE, write_folder
from strataprobe.generate.judge import JUDGED_NAME, Judge, open_judge
from strataprobe.generate.ledger import LEDGER_NAME, Entry, Ledger
from strataprobe.locks import release_lock
from strataprobe.manifest import Manifest, read_json, sha256_json, write_atomic, write_json
from strataprobe.progress import Progress, note
from strataprobe.recipe import Recipe
from strataprobe.stagefolder import StageFolder

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
    if backend == "builtin" and (options.llm or (options.base_url and not judge)):
        raise OptionError(
            "--llm and --base-url are for a language model: name its --backend, ollama, openai or transformers."
        )
    writer = Builtin(recipe) if backend == "builtin" else None
    plan = writer.plan(n, seed) if writer else make_cells(recipe, n, seed)
    stage = StageFolder(out, STAGE, _config(recipe, backend, options, n, seed, plan))
    started_s = time.monotonic()
    done = stage.finished()
    if done is not None and (allow_missing or not done.details.get("missing")):
        if judge and done.details.get("judged_by") != judge:
            return _judge_finished(stage, done, recipe, open_judge(judge, backend, options), judge)
        note(f"generate: {out} is complete, skipped.")
        return done
    if done is not None and not (out / LEDGER_NAME).exists():
        raise BackendError(
            f"{out} lacks {done.details['missing']:,} texts and no longer holds what was asked for (a copy or a backup does "
            "not): add --allow-missing, or choose another --out."
        )
    asked = writer or open_backend(backend, options, recipe.model)
    if backend in ("ollama", "transformers") and not options.llm:
        note(f"llm: {asked.identity.name} (auto: the usual one of this backend)")
    # a judge on a server is looked for now, one in this process when the writer is no longer needed
    judged_by = open_judge(judge, backend, options) if judge and backend != "transformers" else None
    stage.begin()
    if done is not None and not (stage.work / LEDGER_NAME).exists():
        shutil.copy(out / LEDGER_NAME, stage.work / LEDGER_NAME)
    write_atomic(stage.work / PLAN_NAME, "".join(_line(cell.to_json()) for cell in plan))
    try:
        with Ledger(stage.work / LEDGER_NAME, asked.identity.name) as ledger:
            _refuse_another_writer(ledger)
            missing = _ask(recipe, plan, ledger, asked, options, seed, allow_missing)
            if missing and not (allow_missing and _has_every_class(missing, plan)):
                raise BackendError(_what_is_missing(missing, plan, ledger, allow_missing))
    except OptionError:
        if writer:  # no restart under these options can end better, and composing costs nothing
            shutil.rmtree(stage.work)
            release_lock(out)
        raise
    rows, pairs = _rows(recipe, plan, ledger, backend)
    rows = in_file_order(rows, pairs, seed)
    if judge and judged_by is None:
        judged_by = open_judge(judge, backend, options)
    judgement = judged_by.agreement(recipe, rows, stage.work) if judged_by else None
    _write_rejected(stage.work / REJECTED_NAME, ledger)
    report = audit(rows, recipe, asked=_asked_for(ledger, len(missing)), judge=judgement)
    details = {"missing": len(missing), "asked": asked.details(), "judged_by": judge}
    manifest = Manifest(stage=STAGE, config=stage.key, model=asked.identity, details=details)
    manifest = write_folder(stage, manifest, recipe.name, rows, report, started_s)
    if not missing:
        (out / LEDGER_NAME).unlink(missing_ok=True)  # the last thing: a run killed before asks for nothing twice
    return manifest


def _config(
    recipe: Recipe, backend: str, options: BackendOptions, n: int, seed: int, plan: Sequence[Cell]
) -> dict[str, Any]:
    """What decides the texts, as far as it is known before a model is there."""
    config: dict[str, Any] = {"recipe": recipe.to_json(), "backend": backend, "n_per_class": n, "seed": seed}
    config["plan_sha256"] = sha256_json([cell.to_json() for cell in plan])
    if backend == "builtin":
        return {**config, "revision": REVISION}
    config |= {
        "llm": default_llm(backend, options, recipe.model),
        "temperature": options.temperature,
        "max_new_tokens": options.max_new_tokens,
    }
    return config if backend != "transformers" else {**config, "dtype": options.dtype}


def _refuse_another_writer(ledger: Ledger) -> None:
    """Raise BackendError when the texts so far are another model's: a server may have changed its only one."""
    there = next((entry.model for entry in ledger.entries if entry.model != ledger.model), None)
    if there is not None:
        raise BackendError(
            f"the texts so far were written by {there}, and the model is {ledger.model} now: serve {there} again, or choose "
            "another --out."
        )


def _judge_finished(stage: StageFolder, done: Manifest, recipe: Recipe, judge: Judge, name: str) -> Manifest:
    """Judge the texts of a finished folder, and put the folder with the new audit in its place."""
    stage.begin()
    shutil.copytree(stage.final, stage.work, dirs_exist_ok=True, ignore=shutil.ignore_patterns(JUDGED_NAME))
    rows = read_dataset(stage.final).rows
    judgement = judge.agreement(recipe, rows, stage.work)
    report = audit(rows, recipe, asked=read_json(stage.work / AUDIT_NAME).get("asked"), judge=judgement)
    write_json(stage.work / AUDIT_NAME, report)
    return stage.commit(done.model_copy(update={"details": {**done.details, "judged_by": name}}))


def _ask(
    recipe: Recipe,
    plan: Sequence[Cell],
    ledger: Ledger,
    backend: Any,
    options: BackendOptions,
    seed: int,
    allow_missing: bool,
) -> list[Cell]:
    """Ask for every cell that the ledger has no text for; the cells that are left without one."""
    there = sum(ledger.accepted(cell.id) is not None for cell in plan)
    if there:
        note(f"generate: {there:,} of {len(plan):,} texts were there already.")
    if allow_missing and ledger.gave_up:
        return [cell for cell in plan if ledger.accepted(cell.id) is None]
    acceptance = Acceptance(recipe, check_language=backend.name != "builtin")
    with Progress("write", len(plan), "texts", there) as bar:
        asking = Asking(recipe, plan, acceptance, ledger, bar, options.max_attempts)
        if asking.open():
            backend.write(asking, seed)
    missing = asking.missing()
    if missing:
        ledger.give_up()
    return missing


def _has_every_class(missing: Sequence[Cell], plan: Sequence[Cell]) -> bool:
    """Whether the texts that are there, few or many, are of every class: else no probe can be trained on them."""
    without = Counter(cell.label for cell in missing)
    return all(n > without[label] for label, n in Counter(cell.label for cell in plan).items())


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


_WHAT_HELPS = {
    "truncated": "a higher --max-new-tokens, or a model that does not think aloud, may help",
    "no_answer": "look at what the server says, or use another model",
    "language": "use a model that knows the language better",
    "refusal": "describe the classes more innocently, or use another model",
    "banned_word": "see which words are meant with --check, and describe the classes without them",
}


def _what_is_missing(missing: Sequence[Cell], plan: Sequence[Cell], ledger: Ledger, allow_missing: bool) -> str:
    by_class = Counter(cell.label for cell in missing)
    classes = ", ".join(f"{n:,} {name}" for name, n in sorted(by_class.items())[:8])
    more = ", ..." if len(by_class) > 8 else ""
    reasons = Counter(entry.check for entry in ledger.rejected()).most_common(3)
    why = ", ".join(f"{name} {n:,}" for name, n in reasons)
    hint = _WHAT_HELPS.get(reasons[0][0] if reasons else "", "read the rejected answers, and mend the recipe")
    return (
        f"{len(missing):,} of {len(plan):,} texts are missing ({classes}{more}), their answers were rejected (most often: "
        f"{why}): {hint}; the texts so far are kept, so the same command asks for the missing ones again, and "
        + ("no gap is allowed where a class has no text." if allow_missing else "--allow-missing goes on without them.")
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


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"
