"""A model writes, and some answers are rejected: what is kept, what a restart asks for, and what the folder says of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from scripted_backend import ScriptedBackend, three_classes
from scripted_server import good_text
from strataprobe.dataset import read_dataset
from strataprobe.errors import BackendError, OptionError, StageError
from strataprobe.generate import judge as judge_module
from strataprobe.generate import run
from strataprobe.generate.backends import BackendOptions
from strataprobe.generate.cells import Cell, make_cells
from strataprobe.generate.ledger import LEDGER_NAME, Ledger
from strataprobe.generate.run import generate
from strataprobe.manifest import Manifest, ModelIdentity, verify_folder

RECIPE = three_classes()
N = 6
CELLS = make_cells(RECIPE, N, 0)
NUMBER = {cell.id: i for i, cell in enumerate(CELLS)}


def good(cell: Cell, attempt: int) -> str:
    """A text of its own for every cell."""
    return good_text(NUMBER[cell.id])


def stubborn(cell: Cell, attempt: int) -> str:
    """No text for a dry cell of an odd pair; for others at the second attempt, the first answer being a list."""
    if cell.label == "dry" and cell.pair % 2:
        return "" if attempt % 2 else "I'm sorry, but I can't help with that."
    return good(cell, attempt) if attempt > 1 else "- " + good(cell, attempt)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``write(backend, **options)``: a run of the stage in which that backend writes."""

    def run_it(backend: ScriptedBackend, max_attempts: int = 2, **more: Any) -> Manifest:
        monkeypatch.setattr(run, "open_backend", lambda *_: backend)
        options = BackendOptions(max_attempts=max_attempts)
        return generate(RECIPE, tmp_path / "data", backend="openai", n_per_class=N, options=options, **more)

    return run_it


def lines(path: Path) -> list[dict]:
    """The lines of a JSONL file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def findings(folder: Path) -> dict[str, dict[str, str]]:
    """The findings of an audit by code."""
    return {f["code"]: f for f in json.loads((folder / "audit.json").read_text("utf-8"))["findings"]}


def test_texts_that_are_missing_are_said_in_a_sentence_and_asked_for_by_a_restart(tmp_path: Path, write: Any) -> None:
    with pytest.raises(BackendError) as caught:
        write(ScriptedBackend(stubborn))
    assert str(caught.value) == (
        "3 of 18 texts are missing (3 dry), their answers were rejected (most often: list 15, empty 3, refusal 3): "
        "read the rejected answers, and mend the recipe; the texts so far are kept, so the same command asks for the "
        "missing ones again, and --allow-missing goes on without them."
    )
    assert not (tmp_path / "data").exists()
    second = ScriptedBackend(good)
    manifest = write(second)
    assert second.asked == [c.id for c in CELLS if c.label == "dry" and c.pair % 2]
    assert manifest.details["counts"] == {"dry": 6, "still": 6, "wet_days": 6}
    assert manifest.details["missing"] == 0
    assert findings(tmp_path / "data")["G009"]["level"] == "ok"
    rows = read_dataset(tmp_path / "data").rows
    assert {r.id: r.text for r in rows} == {c.id: good(c, 1) for c in CELLS}
    assert Counter(r.fields["attempt"] for r in rows) == {2: 15, 3: 3}
    assert {(r.fields["backend"], r.fields["model"]) for r in rows} == {("openai", "scripted")}
    assert verify_folder(tmp_path / "data") == []


def test_a_folder_without_the_missing_texts_has_true_counts_and_says_so(tmp_path: Path, write: Any) -> None:
    with pytest.raises(BackendError):
        write(ScriptedBackend(stubborn))
    silent = ScriptedBackend(stubborn)
    manifest = write(silent, allow_missing=True)
    assert silent.asked == []  # the attempts are used up already
    folder = tmp_path / "data"
    assert manifest.details["counts"] == {"dry": 3, "still": 6, "wet_days": 6}
    assert manifest.details["combined"] == "weather_combined_15.jsonl"
    assert manifest.details["missing"] == 3
    assert {p.name for p in folder.iterdir()} == {
        "weather_combined_15.jsonl", "dry_weather_3.jsonl", "still_weather_6.jsonl", "wet_days_weather_6.jsonl",
        "plan.jsonl", "rejected.jsonl", "audit.json", "manifest.json", LEDGER_NAME,
    }  # fmt: skip
    assert len(lines(folder / "plan.jsonl")) == 18
    audit = json.loads((folder / "audit.json").read_text("utf-8"))
    assert audit["asked"] == {
        "answers": 36, "accepted": 15, "acceptance_rate": 0.4167, "missing": 3,
        "rejected": {"list": 15, "empty": 3, "refusal": 3},
    }  # fmt: skip
    found = findings(folder)
    assert (found["G009"]["level"], found["G010"]["level"]) == ("warning", "warning")
    assert found["G009"]["message"].startswith("3 planned texts are missing")
    assert "rejected most for list 15, empty 3, refusal 3" in found["G010"]["message"]


def test_gaps_are_not_allowed_where_a_class_has_no_text_at_all(tmp_path: Path, write: Any) -> None:
    with pytest.raises(
        BackendError, match=r"6 of 18 texts are missing \(6 dry\).* no gap is allowed where a class has no text\.$"
    ):
        write(ScriptedBackend(lambda c, n: "" if c.label == "dry" else good(c, n)), allow_missing=True)
    assert not (tmp_path / "data").exists()


def test_rejected_answers_are_kept_by_cell_and_attempt_whatever_their_order(tmp_path: Path, write: Any) -> None:
    write(ScriptedBackend(stubborn), max_attempts=3, allow_missing=True)
    rejected = lines(tmp_path / "data" / "rejected.jsonl")
    assert [(r["cell"], r["attempt"]) for r in rejected] == sorted((r["cell"], r["attempt"]) for r in rejected)
    assert len(rejected) == 15 + 9
    assert list(rejected[0]) == ["cell", "attempt", "check", "found", "text"]
    assert {r["check"] for r in rejected} == {"list", "empty", "refusal"}
    assert {r["cell"] for r in rejected} == set(NUMBER)


def test_the_plan_is_saved_and_a_run_without_rejections_leaves_no_list_of_them(tmp_path: Path, write: Any) -> None:
    write(ScriptedBackend(good))
    assert lines(tmp_path / "data" / "plan.jsonl") == [c.to_json() for c in CELLS]
    assert not (tmp_path / "data" / "rejected.jsonl").exists()
    assert not (tmp_path / "data" / LEDGER_NAME).exists()
    assert findings(tmp_path / "data")["G010"]["message"] == "100% of the answers were accepted."


def test_a_finished_folder_is_skipped_and_no_backend_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any
) -> None:
    first = write(ScriptedBackend(good))
    monkeypatch.setattr(run, "open_backend", lambda *_: pytest.fail("opened"))
    monkeypatch.setattr(run, "open_judge", lambda *_: pytest.fail("opened"))
    again = generate(RECIPE, tmp_path / "data", backend="openai", n_per_class=N)
    assert again == first
    for options, name in (({"temperature": 0.5}, "temperature"), ({"max_new_tokens": 9}, "max_new_tokens")):
        with pytest.raises(StageError, match=f"{name} .* there"):
            generate(RECIPE, tmp_path / "data", backend="openai", n_per_class=N, options=BackendOptions(**options))


def test_a_folder_with_gaps_is_opened_again_unless_gaps_are_allowed(tmp_path: Path, write: Any) -> None:
    write(ScriptedBackend(stubborn), allow_missing=True)
    assert write(ScriptedBackend(), allow_missing=True).details["missing"] == 3
    with pytest.raises(BackendError, match="3 of 18 texts are missing"):
        write(ScriptedBackend(stubborn))
    assert len(read_dataset(tmp_path / "data").rows) == 15
    second = ScriptedBackend(good)
    assert write(second).details["missing"] == 0
    assert second.asked == [c.id for c in CELLS if c.label == "dry" and c.pair % 2]
    assert len(read_dataset(tmp_path / "data").rows) == 18
    assert verify_folder(tmp_path / "data") == []
    assert {p.name for p in tmp_path.iterdir()} == {"data"}


def test_gaps_of_a_copy_without_its_ledger_are_said_and_left(tmp_path: Path, write: Any) -> None:
    write(ScriptedBackend(stubborn), allow_missing=True)
    (tmp_path / "data" / LEDGER_NAME).unlink()
    with pytest.raises(BackendError, match="lacks 3 texts and no longer holds what was asked for"):
        write(ScriptedBackend(good))
    assert write(ScriptedBackend(), allow_missing=True).details["missing"] == 3
    assert len(read_dataset(tmp_path / "data").rows) == 15


def test_an_option_error_of_a_model_throws_no_text_away(tmp_path: Path, write: Any) -> None:
    def breaks(cell: Cell, attempt: int) -> str:
        if NUMBER[cell.id] == 4:
            raise OptionError("No such option.")
        return good(cell, attempt)

    with pytest.raises(OptionError):
        write(ScriptedBackend(breaks))
    assert len(Ledger(tmp_path / ".data.partial" / LEDGER_NAME).entries) == 4


def test_another_model_does_not_go_on_with_the_texts_of_the_first(tmp_path: Path, write: Any) -> None:
    with pytest.raises(BackendError):
        write(ScriptedBackend(stubborn))
    other = ScriptedBackend(good)
    other.identity = ModelIdentity(name="newcomer", revision="unknown")
    with pytest.raises(BackendError, match="written by scripted, and the model is newcomer now"):
        write(other)
    assert write(ScriptedBackend(good)).details["missing"] == 0


def test_a_finished_folder_is_judged_without_a_text_being_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any
) -> None:
    first = write(ScriptedBackend(good))
    before = (tmp_path / "data" / "weather_combined_18.jsonl").read_bytes()
    second = ScriptedBackend(replies=lambda prompt: "dry")
    monkeypatch.setattr(judge_module, "open_backend", lambda *_: second)
    writer = ScriptedBackend()
    again = write(writer, judge="second")
    assert (writer.asked, len(second.prompts)) == ([], 18)
    assert (first.details["judged_by"], again.details["judged_by"]) == (None, "second")
    audit = json.loads((tmp_path / "data" / "audit.json").read_text("utf-8"))
    assert audit["judge"]["agreement"] == 0.3333
    assert audit["asked"]["answers"] == 18
    assert (tmp_path / "data" / "weather_combined_18.jsonl").read_bytes() == before
    assert verify_folder(tmp_path / "data") == []
    assert write(writer, judge="second") == again
    assert len(second.prompts) == 18


def test_what_was_answered_is_not_asked_again_when_the_server_goes_away(tmp_path: Path, write: Any) -> None:
    def breaks(cell: Cell, attempt: int) -> str:
        if NUMBER[cell.id] == 11:
            raise BackendError("The server is gone.")
        return good(cell, attempt)

    with pytest.raises(BackendError, match="is gone"):
        write(ScriptedBackend(breaks))
    kept = Ledger(tmp_path / ".data.partial" / LEDGER_NAME).entries
    assert [e.cell for e in kept] == [c.id for c in CELLS[:11]]
    second = ScriptedBackend(good)
    write(second)
    assert second.asked == [c.id for c in CELLS[11:]]


@pytest.mark.parametrize("step", ["audit", "write_folder", "StageFolder.commit"])
def test_a_kill_after_the_last_answer_costs_no_answer(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"strataprobe.generate.run.{step}", killed)
        with pytest.raises(KeyboardInterrupt):
            write(ScriptedBackend(stubborn), allow_missing=True)
    second = ScriptedBackend(good)
    write(second)
    assert second.asked == [c.id for c in CELLS if c.label == "dry" and c.pair % 2]
    assert len(read_dataset(tmp_path / "data").rows) == 18
    assert {p.name for p in (tmp_path / "data").iterdir()} == {
        "weather_combined_18.jsonl", "dry_weather_6.jsonl", "still_weather_6.jsonl", "wet_days_weather_6.jsonl",
        "plan.jsonl", "rejected.jsonl", "audit.json", "manifest.json",
    }  # fmt: skip


def test_a_judge_reads_every_text_and_the_audit_holds_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any
) -> None:
    label_of = {good(c, 1): c.label for c in CELLS}

    def says(prompt: str) -> str:
        label = next(label for text, label in label_of.items() if text in prompt)
        return "dry" if label == "still" else label

    second = ScriptedBackend(replies=says)
    monkeypatch.setattr(judge_module, "open_backend", lambda *_: second)
    write(ScriptedBackend(good), judge="second")
    audit = json.loads((tmp_path / "data" / "audit.json").read_text("utf-8"))
    assert audit["judge"]["by_class"] == {"dry": 1.0, "still": 0.0, "wet_days": 1.0}
    assert audit["judge"]["agreement"] == 0.6667
    assert len(second.prompts) == len(lines(tmp_path / "data" / "judged.jsonl")) == 18
    found = findings(tmp_path / "data")["G011"]
    assert found["level"] == "warning"
    assert "agrees with 67% of 18 labels, least for still" in found["message"]
