"""What the tests of the server backend share: a backend with little patience, a job, and what a whole job looks like."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scripted_server import MODEL, Answer, Script, ScriptedServer, completion, good_text
from strataprobe.generate.acceptance import Acceptance
from strataprobe.generate.asking import Asking
from strataprobe.generate.backends import BackendOptions
from strataprobe.generate.backends.server import Server
from strataprobe.generate.cells import make_cells
from strataprobe.generate.ledger import Ledger
from strataprobe.progress import Progress, set_quiet
from strataprobe.recipe import load_recipe

RECIPE = load_recipe("sentiment")


class Quick(Server):
    """The same with little patience."""

    patience_s = 0.4
    busy_patience_s = 0.6
    first_wait_s = 0.02


@pytest.fixture(autouse=True)
def tidy(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For all tests of a module that imports it: no key of the user's and no notes; nothing left open afterwards."""
    pytest.importorskip("openai")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    set_quiet(True)
    gc.freeze()  # what there was before need not be looked through
    yield
    gc.collect()
    gc.unfreeze()
    assert not [record for record in caplog.records if record.name == "asyncio"]


def quick(server: ScriptedServer, **options: Any) -> Quick:
    return Quick("openai", BackendOptions(**{"base_url": server.url, "llm": MODEL, "parallel": 4, **options}))


@contextmanager
def asking(folder: Path, n_per_class: int = 4, max_attempts: int = 3) -> Iterator[Asking]:
    plan = make_cells(RECIPE, n_per_class, 0)
    with Ledger(folder / "ledger.jsonl") as ledger, Progress("write", len(plan), "texts") as bar:
        yield Asking(RECIPE, plan, Acceptance(RECIPE), ledger, bar, max_attempts)


def whole(job: Asking) -> None:
    """Every cell has one accepted text, the last of its entries, and the file on disk says the same."""
    assert job.missing() == []
    texts = [e.text for e in job.ledger.entries if e.accepted]
    assert len(texts) == len(set(texts)) == len(job.plan)
    for cell in job.plan:
        assert [e.attempt for e in job.ledger.of(cell.id)] == list(range(1, len(job.ledger.of(cell.id)) + 1))


def once(number: int, answer: Answer) -> Script:
    """``answer`` to the request of that number, good texts to all others."""
    return lambda n, body: answer if n == number else completion(good_text(n))


def prompt(body: dict[str, Any]) -> str:
    return body["messages"][0]["content"]
