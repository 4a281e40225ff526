"""Servers that deny single prompts: those cells are rejected, and the job goes on unless all are denied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scripted_server import (
    Answer,
    ScriptedServer,
    completion,
    error,
    good_text,
)
from server_jobs import asking, prompt, quick
from server_jobs import tidy as tidy
from strataprobe.errors import BackendError


def test_one_prompt_that_is_denied_does_not_end_the_job_and_many_in_a_row_do(tmp_path: Path) -> None:
    def script(number: int, body: dict[str, Any]) -> Answer:
        return error(400, "something is off") if number > 3 else completion(good_text(number))

    with ScriptedServer(script) as server, asking(tmp_path, 10) as job:
        with pytest.raises(BackendError, match=r"denies the request \(status 400: something is off\): 3 of 20 texts"):
            quick(server, parallel=1).write(job, 0)
        assert len(server.requests) == 3 + 8
        assert [e.check for e in job.ledger.entries] == [""] * 3 + ["no_answer"] * 7


def test_a_job_of_which_every_prompt_is_denied_ends_though_it_is_small(tmp_path: Path) -> None:
    flagged = error(403, "the input was flagged by moderation")
    with ScriptedServer(lambda n, body: flagged) as server, asking(tmp_path, 2) as job:
        with pytest.raises(BackendError, match=r"denies the request \(status 403: .*flagged"):
            quick(server, parallel=1).write(job, 0)
        assert len(server.requests) == 4


def test_the_last_open_prompt_of_a_job_may_be_denied_without_an_error(tmp_path: Path) -> None:
    def script(number: int, body: dict[str, Any]) -> Answer:
        return error(400, "no") if prompt(body).startswith(poison) else completion(good_text(number))

    with ScriptedServer(script) as server, asking(tmp_path, 2, max_attempts=2) as job:
        poison = job.messages(job.plan[1], 1)[0]["content"]
        quick(server, parallel=1).write(job, 0)
        assert [c.id for c in job.missing()] == [job.plan[1].id]
    with ScriptedServer(script) as server, asking(tmp_path, 2, max_attempts=4) as job:
        quick(server, parallel=1).write(job, 0)
        assert [c.id for c in job.missing()] == [job.plan[1].id]
        assert {prompt(body).startswith(poison) for body in server.requests} == {True}


def test_judging_goes_on_when_one_question_is_denied() -> None:
    def script(number: int, body: dict[str, Any]) -> Answer:
        return error(400, "flagged by the content policy") if prompt(body) == "2" else completion("yes")

    with ScriptedServer(script) as server:
        found = quick(server, parallel=1).answers([[{"role": "user", "content": str(i)}] for i in range(4)])
    assert found == ["yes", "yes", None, "yes"]
