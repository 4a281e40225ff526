"""Asking for the texts of a plan: attempts, rejections, restarts, and nothing counted that is not on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripted_backend import ScriptedBackend, three_classes
from scripted_server import good_text
from strataprobe.generate.acceptance import Acceptance
from strataprobe.generate.asking import Asking
from strataprobe.generate.cells import make_cells
from strataprobe.generate.ledger import Ledger
from strataprobe.progress import Progress

RECIPE = three_classes()
PLAN = make_cells(RECIPE, 4, 0)


@contextmanager
def asking(path: Path, max_attempts: int = 3, plan: list = PLAN) -> Iterator[Asking]:
    """A job on a ledger at ``path``, taken up where it was left."""
    with Ledger(path, "scripted") as ledger, Progress("write", len(plan), "texts") as bar:
        yield Asking(RECIPE, plan, Acceptance(RECIPE), ledger, bar, max_attempts)


def on_disk(path: Path) -> list[dict]:
    """The lines of a ledger."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_every_cell_gets_its_text_and_the_ledger_says_who_wrote_it(tmp_path: Path) -> None:
    backend = ScriptedBackend(lambda cell, attempt: good_text(PLAN.index(cell)))
    with asking(tmp_path / "ledger") as job:
        assert job.open() == job.missing() == PLAN
        backend.write(job, 0)
        assert job.open() == job.missing() == []
        assert [job.ledger.accepted(c.id).text for c in PLAN] == [good_text(i) for i in range(12)]
    assert backend.asked == [c.id for c in PLAN]
    assert [(e["cell"], e["attempt"], e["model"]) for e in on_disk(tmp_path / "ledger")] == [
        (c.id, 1, "scripted") for c in PLAN
    ]


def test_no_answer_counts_before_it_is_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with asking(path) as job:
        for n, cell in enumerate(PLAN):
            assert len(on_disk(path)) == n
            assert job.settle(cell, good_text(n) if n % 3 else "- a list") == bool(n % 3)
            last = on_disk(path)[-1]
            assert (last["cell"], last.get("check", "")) == (cell.id, "" if n % 3 else "list")
            assert (cell in job.missing()) == (n % 3 == 0)


def test_a_rejected_cell_is_asked_again_and_told_why(tmp_path: Path) -> None:
    answers = ["", "I'm sorry, but I can't help with that.", good_text(1)]
    with asking(tmp_path / "ledger") as job:
        cell = PLAN[0]
        asked = []
        for answer in answers:
            asked.append(job.messages(cell)[-1]["content"])
            assert job.settle(cell, answer) == (answer == answers[-1])
        assert "earlier answer" not in asked[0]
        assert "there was no text in it" in asked[1]
        assert "it was no text but an apology" in asked[2]
        assert "no text in it" not in asked[2]
        assert [job.messages(cell, n)[-1]["content"] for n in (1, 2, 3)] == asked
        assert [e.check for e in job.ledger.of(cell.id)] == ["empty", "refusal", ""]
        assert [e.attempt for e in job.ledger.of(cell.id)] == [1, 2, 3]


def test_attempts_are_counted_over_interruptions_until_the_job_gives_up(tmp_path: Path) -> None:
    backend = ScriptedBackend(lambda cell, attempt: "- a list")
    with asking(tmp_path / "ledger", max_attempts=3, plan=PLAN[:1]) as job:
        job.settle(PLAN[0], "- a list")
        job.settle(PLAN[0], "- a list")
    with asking(tmp_path / "ledger", max_attempts=3, plan=PLAN[:1]) as job:
        backend.write(job, 0)
    assert backend.asked == [PLAN[0].id]


def test_nothing_more_is_asked_when_next_to_none_of_many_answers_was_accepted(tmp_path: Path) -> None:
    with asking(tmp_path / "ledger", max_attempts=1000, plan=PLAN[:2]) as job:
        for n in range(199):
            job.settle(PLAN[0], "- a list")
            assert job.may_ask(PLAN[1]), n
        job.settle(PLAN[0], "- a list")
        assert job.is_hopeless
        assert job.open() == []
    with asking(tmp_path / "ledger", max_attempts=1000, plan=PLAN[:2]) as job:
        assert job.is_hopeless


def test_a_cell_is_asked_so_often_a_job_and_its_attempts_are_numbered_on(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    for run in range(3):
        backend = ScriptedBackend(lambda cell, attempt: "- a list")
        with asking(path, max_attempts=2, plan=PLAN[:2]) as job:
            backend.write(job, 0)
            assert job.open() == []
            assert job.missing() == PLAN[:2]
            assert not job.may_ask(PLAN[0])
            job.ledger.give_up()
        assert backend.asked == [PLAN[0].id, PLAN[1].id] * 2
        assert [e["attempt"] for e in on_disk(path) if e.get("cell") == PLAN[0].id] == list(range(1, 2 * run + 3))


def test_a_restart_asks_only_for_what_is_missing_also_after_empty_answers(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with asking(path) as job:
        job.settle(PLAN[0], "")
        job.settle(PLAN[1], good_text(1))
        job.settle(PLAN[2], "<think>")
        job.settle(PLAN[3], good_text(3))
    with path.open("ab") as file:
        file.write(b'{"cell": "wea')
    backend = ScriptedBackend(lambda cell, attempt: good_text(PLAN.index(cell)))
    with asking(path) as job:
        assert [c.id for c in job.open()] == [c.id for c in PLAN if c not in (PLAN[1], PLAN[3])]
        backend.write(job, 0)
        assert job.missing() == []
        assert job.ledger.accepted(PLAN[0].id).attempt == 2
    assert len(backend.asked) == 10
    assert len(on_disk(path)) == 14


def test_a_text_is_taken_once_over_all_classes_and_restarts(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with asking(path) as job:
        assert PLAN[0].label != PLAN[1].label
        assert job.settle(PLAN[0], good_text(1))
        assert not job.settle(PLAN[1], good_text(1))
        assert not job.settle(PLAN[1], good_text(1).replace("I ", "We ", 1))
        assert [e.check for e in job.ledger.of(PLAN[1].id)] == ["duplicate", "near_duplicate"]
    with asking(path) as job:
        assert not job.settle(PLAN[2], good_text(1))
        assert job.settle(PLAN[2], good_text(2))


def test_texts_may_be_settled_in_any_order(tmp_path: Path) -> None:
    with asking(tmp_path / "ledger") as job:
        for cell in reversed(PLAN):
            assert job.settle(cell, good_text(PLAN.index(cell)))
        assert job.missing() == []
        assert [job.ledger.accepted(c.id).text for c in PLAN] == [good_text(i) for i in range(12)]
    assert [e["cell"] for e in on_disk(tmp_path / "ledger")] == [c.id for c in reversed(PLAN)]


def test_a_problem_that_the_backend_knows_of_is_the_reason_whatever_the_text(tmp_path: Path) -> None:
    with asking(tmp_path / "ledger") as job:
        assert not job.settle(PLAN[0], good_text(1), ("truncated", "no end after 300 tokens"))
        entry = job.ledger.of(PLAN[0].id)[0]
        assert (entry.check, entry.found, entry.text) == ("truncated", "no end after 300 tokens", good_text(1))
        assert job.settle(PLAN[1], good_text(1))  # it was not accepted, so it is no duplicate


def test_an_answer_that_repeats_the_request_is_rejected_and_one_composed_from_parts_is_not(tmp_path: Path) -> None:
    copied = "I show it through what happens, what is done, said to oneself and seen. I went home at noon with a hen."
    with asking(tmp_path / "ledger") as job:
        assert not job.settle(PLAN[0], copied)
        assert job.ledger.of(PLAN[0].id)[0].check == "prompt_copy"
        assert job.settle(PLAN[0], copied, parts=["one", "two"])
        assert job.ledger.accepted(PLAN[0].id).parts == ("one", "two")


def test_of_a_rejected_answer_the_beginning_is_kept_and_of_an_accepted_one_all(tmp_path: Path) -> None:
    with asking(tmp_path / "ledger") as job:
        job.settle(PLAN[0], "- " + "x" * 100_000)
        job.settle(PLAN[1], "y" * 100_000, ("truncated", "no end"))
        job.settle(PLAN[2], good_text(1))
    assert [len(e["text"]) for e in on_disk(tmp_path / "ledger")] == [2_000, 2_000, len(good_text(1))]
