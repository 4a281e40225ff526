"""What is said when a server is not there, is none of this kind, wants a key or has not the model."""

from __future__ import annotations

import sys
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
    free_port,
    good_text,
    model_list,
    page,
)
from server_jobs import Quick, asking, once, quick, whole
from server_jobs import tidy as tidy
from strataprobe.errors import BackendError, OptionError
from strataprobe.generate.backends import BackendOptions, places
from strataprobe.generate.backends.failures import printable
from strataprobe.progress import set_quiet

ASKED = [{"role": "user", "content": "Is it day?"}]


def opened(name: str, server: ScriptedServer, llm: str | None = None) -> Quick:
    return Quick(name, BackendOptions(base_url=server.url, llm=llm))


@pytest.mark.parametrize(
    ("name", "start"), [("ollama", "`ollama serve`"), ("openai", "`vllm serve m`, `llama-server -m FILE`")]
)
def test_where_no_server_answers_the_address_and_the_start_are_named(name: str, start: str) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(BackendError) as found:
        Quick(name, BackendOptions(base_url=url, llm="m"))
    assert str(found.value).startswith(f"No server answers at {url} (no connection): start it (")
    assert start in str(found.value)


def test_a_host_that_is_not_known_is_no_server() -> None:
    with pytest.raises(BackendError, match=r"No server answers at http://no-such-host.invalid/v1"):
        Quick("openai", BackendOptions(base_url="http://no-such-host.invalid/v1", timeout_s=5.0))


@pytest.mark.parametrize("url", [None, "127.0.0.1:8000/v1", "http://", "http://host:port/v1", "ftp://127.0.0.1/v1"])
def test_an_address_that_is_missing_or_none_is_an_option_to_mend(url: str | None) -> None:
    with pytest.raises(OptionError, match=r"--base-url .*http://127.0.0.1:8000/v1"):
        Quick("openai", BackendOptions(base_url=url))


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(BackendError, match=r"pip install 'strataprobe\[generate\]'"):
        Quick("ollama", BackendOptions())


@pytest.mark.parametrize(
    "models", [page(), document([]), document({"error": "Unexpected endpoint"}), document({"data": "x"})]
)
def test_something_else_than_this_api_is_said_to_be(models: Answer) -> None:
    with ScriptedServer(models=models) as server, pytest.raises(BackendError, match=r"not an OpenAI-compatible server"):
        opened("openai", server, "m")


@pytest.mark.parametrize("models", [error(404), error(500), Answer(b"Internal Server Error", 500)])
def test_a_server_without_a_list_of_models_is_one_but_the_model_must_be_named(models: Answer) -> None:
    with ScriptedServer(models=models) as server:
        assert opened("openai", server, "m").identity.name == "m"
        with pytest.raises(OptionError, match="name one with --llm"):
            opened("openai", server)


def test_the_only_model_is_taken_and_said(capsys: pytest.CaptureFixture[str]) -> None:

    set_quiet(False)
    with ScriptedServer() as server:
        assert opened("openai", server).identity.name == MODEL
    assert f"asking {MODEL}, the only model" in capsys.readouterr().err


def test_of_several_models_one_must_be_taken() -> None:
    with ScriptedServer(models=model_list("a", "b")) as server:
        with pytest.raises(OptionError, match=r"take one with --llm \(a, b\)"):
            opened("openai", server)
        with pytest.raises(BackendError, match=r"no model 'c' \(there: a, b\); name one that it has with --llm"):
            opened("openai", server, "c")
        assert server.requests == []
    with ScriptedServer(models=model_list("a")) as server:
        assert opened("openai", server, "c").identity.name == "c"  # llama.cpp answers to any name
    listed = ("/srv/models/tiny-q4.gguf", "/srv/models/big.gguf", "qwen:latest")
    with ScriptedServer(models=model_list(*listed)) as server:
        for name in ("qwen", "tiny-q4.gguf"):
            quick(server, llm=name).answers([ASKED])
        assert [body["model"] for body in server.requests] == ["qwen:latest", "/srv/models/tiny-q4.gguf"]


def test_the_option_that_named_the_model_is_the_one_to_mend() -> None:
    def judge(server: ScriptedServer, name: str, llm: str | None) -> Quick:
        return Quick(name, BackendOptions(base_url=server.url, llm=llm), option="--judge")

    missing = error(404, "model 'c' not found")
    with ScriptedServer(lambda n, body: missing, models=model_list("a", "b")) as server:
        for name, llm in (("openai", "c"), ("openai", None), ("ollama", "c")):
            with pytest.raises((BackendError, OptionError), match="--judge") as found:
                judge(server, name, llm)
            assert "--llm" not in str(found.value)
        server.models = model_list("a")
        with pytest.raises(BackendError, match=r"no model 'c' .*--judge"):
            judge(server, "openai", "c").answers([ASKED])
        server.models = error(404)
        with pytest.raises(OptionError, match="name one with --judge"):
            judge(server, "openai", None)


def test_ollama_needs_the_model_pulled() -> None:
    with ScriptedServer(models=model_list("llama3.2:1b", "qwen:latest")) as server:
        with pytest.raises(BackendError, match=r"there: llama3.2:1b, qwen:latest.*`ollama pull gemma3:4b`"):
            opened("ollama", server)
        assert opened("ollama", server, "llama3.2:1b").identity.name == "llama3.2:1b"
        assert opened("ollama", server, "qwen").identity.name == "qwen:latest"
    empty = document({"object": "list", "data": None})
    with ScriptedServer(models=empty) as server, pytest.raises(BackendError, match=r"there: none.*`ollama pull x`"):
        opened("ollama", server, "x")
    with ScriptedServer(models=page(404)) as server, pytest.raises(BackendError, match="ends in /v1"):
        opened("ollama", server)


def test_the_key_is_sent_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(number: int, body: dict[str, Any]) -> Answer:
        return error(400, f"bad request with {key}")

    key = "sk-secret-0815"
    monkeypatch.setenv("OPENAI_API_KEY", f"{key}\n")
    with ScriptedServer(script) as server, asking(tmp_path) as job:
        with pytest.raises(BackendError, match=r"bad request with \*\*\*") as found:
            quick(server, parallel=1).write(job, 0)
        assert set(server.keys) == {f"Bearer {key}"}
    assert key not in str(found.value)
    assert key not in (tmp_path / "ledger.jsonl").read_text("utf-8")
    assert found.value.__suppress_context__


def test_no_key_is_sent_to_ollama(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0815")
    with ScriptedServer() as server:
        options = BackendOptions(base_url=server.url, llm=MODEL)
        for name in ("ollama", "openai"):
            Quick(name, options).answers([ASKED])
        server.script = lambda n, body: error(401, "key?")
        with pytest.raises(BackendError, match=r"wants a key \(status 401\).*use --backend openai .*OPENAI_API_KEY"):
            Quick("ollama", options).answers([ASKED])
    assert server.keys == ["Bearer no-key-given", "Bearer sk-secret-0815", "Bearer no-key-given"]


@pytest.mark.parametrize("wanted", [True, False])
def test_over_the_net_in_clear_the_key_goes_only_where_it_is_wanted_and_that_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wanted: bool
) -> None:
    def script(number: int, body: dict[str, Any]) -> Answer:
        keyless = server.keys[number - 1] != "Bearer sk-secret-0815"
        return error(401, "no key") if wanted and keyless else completion(good_text(number))

    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0815")
    monkeypatch.setattr(places, "is_near", lambda host: False)
    set_quiet(False)
    with ScriptedServer(script) as server, asking(tmp_path) as job:
        backend = quick(server)
        backend.write(job, 0)
        whole(job)
        n = len(server.requests)
        backend.answers([ASKED])
    n_keyless = server.keys.count("Bearer no-key-given")
    assert 1 <= n_keyless <= 4 if wanted else n_keyless == n + 1 == 9
    assert backend.details()["retries"] == ({"key": n_keyless} if wanted else {})
    assert capsys.readouterr().err.count("wants the key, which http sends in clear") == wanted


def test_which_hosts_are_near() -> None:
    near = ["127.0.0.1", "localhost", "10.0.0.7", "192.168.1.2", "::1", "gpu-box", "gpu.local"]
    assert [host for host in [*near, "8.8.8.8", "api.example.com", "2606:4700::1"] if places.is_near(host)] == near


@pytest.mark.parametrize("status", [401, 403])
def test_where_a_key_is_wanted_the_variable_is_named(tmp_path: Path, status: int) -> None:
    refusal = error(status, "Incorrect key provided: sk-12***89")
    said = r"\(status 403: Incorrect key provided: \*\*\*\)" if status == 403 else r"\(status 401\)"
    sentence = rf"{said}; set OPENAI_API_KEY"
    with ScriptedServer(models=refusal) as server, pytest.raises(BackendError, match=sentence) as found:
        opened("openai", server, "m")
    assert "sk-12" not in str(found.value)
    with (
        ScriptedServer(lambda n, body: refusal) as server,
        asking(tmp_path) as job,
        pytest.raises(BackendError, match=r"0 of 8 texts are there .*set OPENAI_API_KEY"),
    ):
        quick(server).write(job, 0)


@pytest.mark.parametrize(
    "denial",
    [
        error(404, "The model `m` does not exist.", code="model_not_found"),
        error(400, "model 'm' not found"),
        document({"detail": "Server is pinned to 'a'; requested 'm'."}, 400),
    ],
)
def test_a_model_that_the_server_does_not_know_ends_the_job_and_those_it_has_are_named(
    tmp_path: Path, denial: Answer
) -> None:
    with ScriptedServer(lambda n, body: denial, models=model_list("a")) as server, asking(tmp_path) as job:
        with pytest.raises(BackendError, match=r"has no model 'm' \(.*there: a\).*0 of 8 texts.*--llm"):
            quick(server, llm="m").write(job, 0)
        assert len(server.requests) <= 4
        assert job.ledger.entries == []


def test_an_address_without_its_last_part_is_mended_with_v1(tmp_path: Path) -> None:
    with ScriptedServer() as server, asking(tmp_path) as job:
        backend = quick(server, base_url=server.url.removesuffix("/v1"))
        with pytest.raises(BackendError, match=r"not an OpenAI-compatible server.*ends in /v1"):
            backend.write(job, 0)


def test_a_server_that_loads_its_model_is_waited_for(tmp_path: Path) -> None:
    loading = error(503, "Loading model")
    said = r"takes no more requests \(status 503: Loading model\)"
    with ScriptedServer(models=loading) as server, pytest.raises(BackendError, match=said):
        opened("openai", server, "m")
    answers = iter([loading, loading, *[None] * 99])
    with ScriptedServer(lambda n, body: next(answers) or completion(good_text(n))) as server, asking(tmp_path) as job:
        backend = quick(server, parallel=1)
        backend.write(job, 0)
        whole(job)
    assert backend.details()["retries"] == {"server_error": 2}


def test_a_proxy_is_not_asked_for_a_server_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    with ScriptedServer() as server:
        assert opened("openai", server).identity.name == MODEL


def test_a_password_in_the_address_is_not_shown() -> None:
    url = f"http://me:hidden@127.0.0.1:{free_port()}/v1"
    with pytest.raises(BackendError) as found:
        Quick("openai", BackendOptions(base_url=url))
    assert "hidden" not in str(found.value)
    assert "me" not in str(found.value).split("http://")[1].split("/v1")[0]


@pytest.mark.parametrize(
    "url", ["htp://me:hidden@host/v1", "me:hidden@host/v1", "http://me:hid#den@host", "host?k=hid"]
)
def test_nor_is_one_in_an_address_that_is_mistyped(url: str) -> None:
    with pytest.raises(OptionError, match=r"--base-url '[a-z:/]*host(?:/v1)?' is not") as found:
        Quick("openai", BackendOptions(base_url=url))
    assert "hid" not in str(found.value)


def test_what_a_server_says_reaches_nobody_with_escapes_or_hidden_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b]0;title\x07\x1b[2Jan\x00y\u202e \x9b31mwo\r\nrds\u2028\x7f"
    set_quiet(False)
    with ScriptedServer(lambda n, body: error(400, evil), models=model_list(evil)) as server, asking(tmp_path) as job:
        backend = quick(server, llm=None)
        with pytest.raises(BackendError, match=r"\(status 400: any wo rds\)"):
            backend.write(job, 0)
        assert backend.identity.name == "any wo rds"
        server.models = model_list(evil, "b")
        with pytest.raises(OptionError, match=r"\(any wo rds, b\)"):
            quick(server, llm=None)
    assert "asking any wo rds, the only model" in capsys.readouterr().err
    filtered = error(403, f"flagged: {evil}")
    with ScriptedServer(once(2, filtered)) as server, asking(tmp_path) as job:
        quick(server, parallel=1).write(job, 0)
        whole(job)
    assert [e.found for e in job.ledger.rejected()] == ["status 403: flagged: any wo rds"]


def test_printable_words_stay_as_they_are_and_are_cut() -> None:
    assert printable("Größe: 模型 «x» [2J", 99) == "Größe: 模型 «x» [2J"
    assert printable("word " * 1000, 9) == "word word"
    assert printable("\x1b]8;;never closed \ud83d", 99) == "8;;never closed"
