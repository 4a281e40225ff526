"""Servers that fail, drop out or die: nothing is lost, nothing doubled, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripted_server import (
    Answer,
    ScriptedServer,
    completion,
    document,
    error,
    good_text,
    page,
)
from server_jobs import Quick, asking, once, prompt, quick, whole
from server_jobs import tidy as tidy
from strataprobe.errors import BackendError
from strataprobe.generate.asking import Asking

HUGE = completion("I went home. " * 90_000)


def test_a_rate_limit_is_waited_out_as_long_as_the_server_asks(tmp_path: Path) -> None:
    with ScriptedServer(once(3, error(429, headers={"Retry-After": "0.4"}))) as server, asking(tmp_path) as job:
        backend = quick(server, parallel=1)
        backend.write(job, 0)
        whole(job)
    assert server.at_s[3] - server.at_s[2] >= 0.4
    assert server.requests[3] == server.requests[2]
    assert backend.details()["retries"] == {"rate_limit": 1}
    assert len(job.ledger.entries) == 8
    assert len(server.requests) == 9


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("server_error", error(500)),
        ("server_error", page(502)),
        ("rate_limit", error(429)),
        ("dropped", replace(completion(good_text(77)), unsent=50)),
        ("dropped", Answer(b"", reset=True)),
        ("timeout", replace(completion(good_text(77)), wait_s=1.0)),
        ("timeout", replace(completion(good_text(77)), drip_s=0.2)),
        ("unreadable", page()),
        ("unreadable", Answer(b"[" * 200_000)),
        ("unreadable", HUGE),
        ("unreadable", Answer(gzip.compress(HUGE.body), headers={"Content-Encoding": "gzip"})),
        ("unreadable", error(400, "no " * 400_000)),
        ("unreadable", Answer(completion(good_text(77)).body[:-9], headers={"Content-Type": "application/json"})),
    ],
)
def test_what_may_pass_is_asked_again_and_leaves_no_entry(tmp_path: Path, kind: str, answer: Answer) -> None:
    with ScriptedServer(once(3, answer)) as server, asking(tmp_path) as job:
        backend = quick(server, timeout_s=0.4 if kind == "timeout" else 30.0)
        backend.write(job, 0)
        whole(job)
    assert len(job.ledger.entries) == 8
    assert len(server.requests) == 9
    assert backend.details()["retries"] == {kind: 1}
    assert good_text(77) not in [e.text for e in job.ledger.entries]


def test_a_request_that_is_never_answered_in_json_counts_as_an_answer(tmp_path: Path) -> None:
    def script(number: int, body: dict[str, Any]) -> Answer:
        return page() if prompt(body).startswith(poison) else completion(good_text(number))

    with ScriptedServer(script) as server, asking(tmp_path) as job:
        poison = job.messages(job.plan[1], 1)[0]["content"]
        backend = quick(server, parallel=2)
        backend.write(job, 0)
        assert [c.id for c in job.missing()] == [job.plan[1].id]
    assert [e.check for e in job.ledger.of(job.plan[1].id)] == ["no_answer"] * 3
    assert backend.details()["retries"] == {"unreadable": 6}
    assert len(server.requests) == 7 + 9


def test_a_request_that_breaks_the_server_time_after_time_does_not_hold_up_the_others(tmp_path: Path) -> None:
    def script(number: int, body: dict[str, Any]) -> Answer:
        broken = prompt(body).startswith(poison)
        return error(500, "out of memory") if broken else replace(completion(good_text(number)), wait_s=0.08)

    with ScriptedServer(script) as server, asking(tmp_path, 8, max_attempts=1) as job:
        poison = job.messages(job.plan[0], 1)[0]["content"]
        quick(server, parallel=2).write(job, 0)
        assert [c.id for c in job.missing()] == [job.plan[0].id]
    (entry,) = job.ledger.of(job.plan[0].id)
    assert entry.check == "no_answer"
    assert entry.found.startswith("status 500: out of memory")


@pytest.mark.parametrize("parallel", [1, 8])
def test_a_server_that_is_gone_stops_the_job_and_a_restart_asks_for_what_is_missing(
    tmp_path: Path, parallel: int
) -> None:
    with ScriptedServer(dies_after=7) as server, asking(tmp_path, 10) as job:
        backend = quick(server, parallel=parallel)
        started_s = time.monotonic()
        with pytest.raises(BackendError, match=r"of 20 texts are there and none of them is lost.*run the same command"):
            backend.write(job, 0)
        assert 0.35 < time.monotonic() - started_s < 3
        first = [e for e in job.ledger.entries if e.accepted]
        # Those on their way when the server died may not have come through.
        assert max(0, 7 - parallel) <= len(first) == len(job.ledger.entries) <= 7
    with ScriptedServer(lambda n, body: completion(good_text(100 + n))) as server, asking(tmp_path, 10) as job:
        wanted = sorted(job.messages(c)[0]["content"] for c in job.missing())
        quick(server, parallel=parallel).write(job, 0)
        whole(job)
    assert len(job.ledger.entries) == 20
    assert sorted(map(prompt, server.requests)) == wanted
    assert len(wanted) == 20 - len(first)
    assert job.ledger.entries[: len(first)] == first


def test_a_server_that_only_refuses_for_now_is_given_longer(tmp_path: Path) -> None:
    with ScriptedServer(lambda n, body: error(429, "slow down")) as server, asking(tmp_path) as job:
        started_s = time.monotonic()
        with pytest.raises(
            BackendError, match=r"takes no more requests \(status 429: slow down\): 0 of 8 .*--parallel"
        ):
            quick(server).write(job, 0)
        assert 0.55 < time.monotonic() - started_s < 4
    with (
        ScriptedServer(lambda n, body: error(429, headers={"Retry-After": "3600"})) as server,
        asking(tmp_path) as job,
        pytest.raises(BackendError, match="takes no more requests"),
    ):
        quick(server).write(job, 0)


def test_a_server_too_slow_for_the_time_limit_is_said_to_be(tmp_path: Path) -> None:
    def script(number: int, body: dict[str, Any]) -> Answer:
        return replace(completion(good_text(number)), wait_s=0.5)

    with (
        ScriptedServer(script) as server,
        asking(tmp_path) as job,
        pytest.raises(BackendError, match=r"no answer within 0.1 s.*--timeout"),
    ):
        quick(server, timeout_s=0.1).write(job, 0)
    assert job.ledger.entries == []


def test_an_error_that_is_nested_without_end_is_one_without_words(tmp_path: Path) -> None:
    nested = Answer(b"[" * 200_000, 400)
    with (
        ScriptedServer(lambda n, body: nested) as server,
        asking(tmp_path) as job,
        pytest.raises(BackendError, match=r"denies the request \(status 400\)"),
    ):
        quick(server).write(job, 0)


@pytest.mark.parametrize(("parallel", "n_good"), [(1, 0), (4, 5)])
def test_a_server_that_hangs_is_given_up_soon_after_the_time_limit(tmp_path: Path, parallel: int, n_good: int) -> None:
    def script(number: int, body: dict[str, Any]) -> Answer:
        return completion(good_text(number)) if number <= n_good else replace(completion("late"), wait_s=2.0)

    with ScriptedServer(script) as server, asking(tmp_path) as job:
        backend = quick(server, parallel=parallel, timeout_s=0.6)
        backend.patience_s = 0.2
        started_s = time.monotonic()
        with pytest.raises(BackendError, match=rf"no answer within 0.6 s\): {n_good} of 8 texts"):
            backend.write(job, 0)
        assert 0.6 < time.monotonic() - started_s < 0.6 + 0.2 + 0.35  # not two time limits


def test_a_slow_model_is_given_as_long_again_when_one_of_its_answers_is_lost(tmp_path: Path) -> None:
    def script(number: int, body: dict[str, Any]) -> Answer:
        return replace(completion(good_text(number)), wait_s=2.0 if number == 2 else 0.2)

    with ScriptedServer(script) as server, asking(tmp_path, 1) as job:
        backend = quick(server, parallel=1, timeout_s=0.4)
        backend.patience_s = 0.1
        backend.write(job, 0)
        whole(job)
    assert backend.details()["retries"] == {"timeout": 1}


def test_out_of_hundreds_of_troubled_requests_none_is_lost_or_doubled(tmp_path: Path) -> None:
    draw = random.Random(0)
    kinds: list[Callable[[int], Answer]] = [
        lambda n: error(429, headers={"Retry-After": "0.05"}),
        lambda n: error(500),
        lambda n: page(),
        lambda n: replace(completion(good_text(n)), unsent=10),
        lambda n: Answer(b"", reset=True),
        lambda n: replace(completion(good_text(n)), wait_s=0.9),
        lambda n: completion("Sorry, I cannot do that."),
        lambda n: completion(good_text(1)),
        lambda n: document({}),
        lambda n: completion(good_text(n), finish="length"),
    ]

    def script(number: int, body: dict[str, Any]) -> Answer:
        return draw.choice(kinds)(number) if draw.random() < 0.4 else completion(good_text(number))

    with ScriptedServer(script) as server, asking(tmp_path, 60, max_attempts=50) as job:
        backend = quick(server, parallel=16, timeout_s=0.6)
        backend.patience_s = 5.0
        backend.write(job, 0)
        whole(job)
    retries = sum(backend.details()["retries"].values())
    assert retries > 20
    assert len(job.ledger.entries) > 130
    assert backend.details()["requests"] == len(server.requests)
    # Every request is an entry or was sent again, or was the last of those that ended in "no answer".
    assert len(server.requests) == len(job.ledger.entries) + retries
    lines = (tmp_path / "ledger.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["cell"] for line in lines] == [e.cell for e in job.ledger.entries]


def write_in_a_notebook(backend: Quick, job: Asking) -> None:
    """As what stands in a cell of a notebook is run: while an event loop is running."""

    async def cell() -> None:
        backend.write(job, 0)

    with closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(cell())


@pytest.mark.parametrize("notebook", [False, True])
def test_ctrl_c_ends_the_job_at_once_and_keeps_what_there_is(tmp_path: Path, notebook: bool) -> None:
    def script(number: int, body: dict[str, Any]) -> Answer:
        return replace(completion(good_text(number)), wait_s=0.0 if number <= 3 else 20.0)

    with ScriptedServer(script) as server, asking(tmp_path) as job:
        backend = quick(server)
        timer = threading.Timer(0.4, lambda: os.kill(os.getpid(), signal.SIGINT))
        started_s = time.monotonic()
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            write_in_a_notebook(backend, job) if notebook else backend.write(job, 0)
        assert time.monotonic() - started_s < 2
        assert len(job.ledger.entries) == 3
        timer.join()


def test_an_error_while_an_answer_is_settled_comes_out_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedServer() as server, asking(tmp_path) as job:

        def full(entry: Any) -> None:
            raise OSError("no space left")

        monkeypatch.setattr(job.ledger, "add", full)
        with pytest.raises(OSError, match="no space left"):
            quick(server).write(job, 0)
