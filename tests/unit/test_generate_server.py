"""The backend for servers: what is asked, what becomes of each answer, and what a server does not take."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripted_server import (
    MODEL,
    Answer,
    ScriptedServer,
    completion,
    document,
    error,
    good_text,
    model_list,
)
from server_jobs import Quick, asking, once, prompt, quick, whole
from server_jobs import tidy as tidy
from strataprobe.errors import BackendError
from strataprobe.generate.asking import Asking
from strataprobe.generate.backends import BackendOptions


def test_every_cell_is_asked_for_once_and_several_are_at_a_time(tmp_path: Path) -> None:
    def script(number: int, body: dict[str, Any]) -> Answer:
        return replace(completion(good_text(number)), wait_s=0.03)

    with ScriptedServer(script) as server, asking(tmp_path) as job:
        backend = quick(server)
        backend.write(job, 0)
        whole(job)
        assert len(job.ledger.entries) == len(server.requests) == 8
        assert 2 <= server.most_at_once <= 4
    assert sorted(map(prompt, server.requests)) == sorted(job.messages(c, 1)[0]["content"] for c in job.plan)
    tokens = {"completion_tokens": 80, "prompt_tokens": 160}
    assert backend.details() == {"requests": 8, "retries": {}, "tokens": tokens}


def test_a_request_says_all_that_makes_its_answer_whatever_the_order(tmp_path: Path) -> None:
    asked = []
    for parallel in (1, 4):
        folder = tmp_path / str(parallel)
        folder.mkdir()
        with ScriptedServer() as server, asking(folder) as job:
            quick(server, parallel=parallel, temperature=0.7, max_new_tokens=99).write(job, 3)
        asked.append({prompt(body): body for body in server.requests})
    assert asked[0] == asked[1]
    bodies = list(asked[0].values())
    assert all(set(b) == {"model", "messages", "temperature", "max_tokens", "seed"} for b in bodies)
    assert {(b["model"], b["temperature"], b["max_tokens"]) for b in bodies} == {(MODEL, 0.7, 99)}
    seeds = [b["seed"] for b in bodies]
    assert len(set(seeds)) == 8
    assert all(0 <= s < 2**31 for s in seeds)


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        ("refusal", completion("I'm sorry, but I cannot help with that.")),
        ("refusal", completion("", finish="content_filter")),
        ("refusal", completion(None, refusal="I will not write this.")),
        ("refusal", error(400, "filtered", code="content_filter")),
        ("preamble", completion(f"Sure! Here is the text: {good_text(77)}")),
        ("truncated", completion("I went out and", finish="length")),
        ("truncated", completion(None, finish="length")),
        ("duplicate", completion(good_text(1))),
        ("empty", completion("")),
        ("no_answer", completion(None)),
        ("no_answer", document({"object": "chat.completion", "choices": []})),
        ("no_answer", document(["text"])),
        ("no_answer", document({"choices": [{"message": "text"}]})),
        ("refusal", error(403, "requires moderation: the input was flagged")),
        ("refusal", error(400, "potentially violating our usage policy", code="invalid_prompt")),
        ("no_answer", error(400, "This model's maximum context length is 64 tokens.")),
        ("no_answer", error(413, "too large")),
        ("no_answer", error(422, "cannot make sense of it")),
    ],
)
def test_an_answer_that_is_no_text_is_kept_with_its_reason_and_asked_again(
    tmp_path: Path, check: str, answer: Answer
) -> None:
    with ScriptedServer(once(3, answer)) as server, asking(tmp_path) as job:
        backend = quick(server, parallel=1)
        backend.write(job, 0)
        whole(job)
    rejected = list(job.ledger.rejected())
    assert [(e.cell, e.check) for e in rejected] == [(job.plan[2].id, check)]
    assert rejected[0].found
    assert len(job.ledger.entries) == len(server.requests) == 9
    assert backend.details()["retries"] == {}
    # It is asked again after all the others, in other words and with another seed.
    assert server.requests[8]["seed"] != server.requests[2]["seed"]
    assert prompt(server.requests[8]).startswith(prompt(server.requests[2]))


def test_a_rejected_cell_is_told_what_was_wrong(tmp_path: Path) -> None:
    with ScriptedServer(once(1, completion("Sure! I went home."))) as server, asking(tmp_path, 1) as job:
        quick(server, parallel=1).write(job, 0)
    assert "it held an introduction" in prompt(server.requests[2])
    assert "it held an introduction" not in prompt(server.requests[0]) + prompt(server.requests[1])


def test_a_cell_without_a_usable_answer_is_asked_as_often_as_allowed(tmp_path: Path) -> None:
    with ScriptedServer(lambda n, body: completion("I cannot help with that.")) as server, asking(tmp_path) as job:
        quick(server).write(job, 0)
        assert len(job.missing()) == 8
        assert job.open() == []
    assert Counter(e.check for e in job.ledger.entries) == {"refusal": 24}
    assert len(server.requests) == 24


def test_it_works_where_an_event_loop_is_running(tmp_path: Path) -> None:
    async def notebook(job: Asking) -> None:
        quick(server).write(job, 0)

    with ScriptedServer() as server, asking(tmp_path) as job:
        asyncio.run(notebook(job))
        whole(job)


@pytest.mark.parametrize(
    ("parameter", "status", "message", "left"),
    [
        ("seed", 400, "Unknown parameter: 'seed'.", {"temperature", "max_tokens"}),
        ("seed", 422, "Extra inputs are not permitted: body.seed", {"temperature", "max_tokens"}),
        ("temperature", 400, "'temperature' does not support 0.7, unsupported value", {"seed", "max_tokens"}),
        ("max_tokens", 400, "Unsupported parameter: use 'max_completion_tokens', not 'max_tokens'.",
         {"seed", "temperature", "max_completion_tokens"}),
    ],
)  # fmt: skip
def test_a_setting_that_the_server_does_not_take_is_left_out_or_renamed(
    tmp_path: Path, parameter: str, status: int, message: str, left: set[str]
) -> None:
    def script(number: int, body: dict[str, Any]) -> Answer:
        return error(status, message, param=parameter) if parameter in body else completion(good_text(number))

    with ScriptedServer(script) as server, asking(tmp_path) as job:
        backend = quick(server)
        backend.write(job, 0)
        whole(job)
    assert len(job.ledger.entries) == 8
    assert set(server.requests[-1]) == {"model", "messages", *left}
    assert backend.details()["retries"] == {"parameter": len(server.requests) - 8}
    assert backend.details().get("not_taken", []) == sorted({"seed", "temperature"} - set(server.requests[-1]))
    assert 1 <= len(server.requests) - 8 <= 4


@pytest.mark.parametrize(
    "complaint",
    ["invalid temperature: must be <= 2", "temperature: Input should be less than or equal to 2 (invalid)"],
)
def test_a_setting_that_is_out_of_range_is_said_and_not_left_out(tmp_path: Path, complaint: str) -> None:
    with ScriptedServer(lambda n, body: error(400, complaint)) as server, asking(tmp_path) as job:
        backend = quick(server, parallel=1, temperature=3.0)
        with pytest.raises(BackendError, match=r"denies the request \(status 400: .*temperature"):
            backend.write(job, 0)
        assert len(server.requests) == 1
    assert "not_taken" not in backend.details()


def test_a_complaint_that_no_other_form_mends_ends_the_job(tmp_path: Path) -> None:
    with ScriptedServer(lambda n, body: error(400, "max_tokens is invalid")) as server, asking(tmp_path) as job:
        with pytest.raises(BackendError, match=r"denies the request \(status 400: max_tokens is invalid\)"):
            quick(server, parallel=1).write(job, 0)
        assert len(server.requests) == 2


def test_short_answers_come_in_order_and_none_where_none_came() -> None:
    said = {"3": None, "4": "<think>Is it 1 or 2?</think>\n4!", "5": "<think>Is it 1, or is it", "6": "6! \ud83d"}

    def script(number: int, body: dict[str, Any]) -> Answer:
        asked = prompt(body)
        answer = said.get(asked, f" {asked}! ")
        return replace(completion(answer, finish="length"), wait_s=0.01 * (7 - int(asked)))

    with ScriptedServer(script) as server:
        found = quick(server).answers([[{"role": "user", "content": str(i)}] for i in range(7)])
        assert found == ["0!", "1!", "2!", None, "4!", None, "6! ?"]
        assert {(b["temperature"], b["max_tokens"]) for b in server.requests} == {(0.0, 256)}
        assert quick(server).answers([]) == []
        server.die()
        with pytest.raises(BackendError):
            Quick("openai", BackendOptions(base_url=server.url, llm=MODEL))


def test_models_are_known_by_their_name_without_folders() -> None:
    for listed, shown in {
        "/srv/models/tiny-q4.gguf": "tiny-q4.gguf",
        "C:\\models\\tiny.gguf": "tiny.gguf",
        "google/gemma-3-4b-it": "google/gemma-3-4b-it",
        "gemma3:4b": "gemma3:4b",
    }.items():
        with ScriptedServer(models=model_list(listed)) as server:
            identity = quick(server, llm=None).identity
        assert (identity.name, identity.revision) == (shown, "unknown")
