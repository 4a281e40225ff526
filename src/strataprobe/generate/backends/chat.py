"""One chat request to an OpenAI-compatible server: sent, sent again while that can help, and its answer read."""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cache, partial
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from strataprobe.errors import BackendError
from strataprobe.generate.backends.failures import Denied, Failure, Patience, printable, refused
from strataprobe.generate.backends.places import KEY_VARIABLE, Place
from strataprobe.generate.prompts import Messages
from strataprobe.progress import note

_CONNECT_S = 10.0
# A server that sends something else than JSON so often for one request is not going to send an answer to it.
_MOST_UNREADABLE = 3
_FEWEST_TRIES = 4
# A text is some hundred words; a list of models may hold hundreds, each with a description.
_LARGEST_ANSWER = 2**20
_LARGEST_LIST = 2**23
_MOST_TOKENS = 10**9
_NO_KEY = "no-key-given"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_NOT_TAKEN = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|unexpected|not permitted|not allowed|extra|invalid|unused", re.I
)
# A setting that is taken, but not with this value.
_OUT_OF_RANGE = re.compile(
    r"[<>]|\bmust be\b|\bbetween\b|\brange\b|(?:less|greater|more|smaller|larger) than|at (?:most|least)|exceed"
    r"|too (?:high|low|large|small)|m(?:ax|in)imum",
    re.I,
)


class _TooLong(Exception):
    """More of an answer came than is read."""


@dataclass(frozen=True)
class Reply:
    """What came for a request: the text, and a (check, finding) where the text cannot be used as it is."""

    text: str
    problem: tuple[str, str] | None = None


@dataclass
class Counts:
    """How it went: requests sent, those sent again by kind of failure, tokens as far as the server counts them."""

    requests: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)


@dataclass
class Traits:
    """What of the usual settings a server does not take, and whether it must have the key; found out once and kept."""

    limit_name: str = "max_tokens"
    dropped: set[str] = field(default_factory=set)
    wants_key: bool = False

    def settings(self, temperature: float, seed: int, limit: int) -> dict[str, Any]:
        """The settings of a request as this server takes them; ``limit`` is in tokens."""
        usual = {"temperature": temperature, "seed": seed, self.limit_name: limit}
        return {name: value for name, value in usual.items() if name not in self.dropped}

    def adapt(self, denied: Denied, body: dict[str, Any]) -> bool:
        """Whether the request ``body``, denied for one of its settings, is worth sending again in another form."""
        if denied.status not in (400, 422) or not _NOT_TAKEN.search(denied.said) or _OUT_OF_RANGE.search(denied.said):
            return False
        for name in ("seed", "temperature"):
            if name in body and re.search(rf"\b{name}\b", denied.said):
                if name not in self.dropped:
                    note(f"generate: the server does not take {name!r}, going on without it.")
                self.dropped.add(name)
                return True
        if "max_tokens" in body and re.search(r"\bmax_tokens\b", denied.said):
            self.limit_name = "max_completion_tokens"
            return True
        return False


class Chat:
    """Connections to the server at ``place``, as an async context manager, for one event loop.

    The user's key goes to no Ollama, and unencrypted into other people's networks only where the server wants it.
    """

    def __init__(self, place: Place, timeout_s: float, counts: Counts, patience: Patience, traits: Traits) -> None:
        self._place, self._timeout_s, self._counts, self._patience = place, timeout_s, counts, patience
        self._traits = traits
        self._key = os.environ.get(KEY_VARIABLE, "").strip() if place.name != "ollama" else ""
        sent = traits.wants_key or not place.in_clear
        self._openai = library()
        # A proxy is for servers elsewhere; sent through one, a request to this machine would not come back to it.
        here = urlsplit(place.url).hostname in _LOOPBACK
        self._client = self._openai.AsyncOpenAI(
            base_url=place.url,
            api_key=(sent and self._key) or _NO_KEY,
            max_retries=0,
            timeout=self._openai.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_S)),
            http_client=self._openai.DefaultAsyncHttpxClient(
                trust_env=not here,
                event_hooks={"response": [_bound]},
                # Read once where they matter only after a redirection: it takes as long as many requests.
                verify=_certificates() if urlsplit(place.url).scheme == "http" else True,
            ),
        )
        self._completions = self._client.chat.completions.with_raw_response

    async def __aenter__(self) -> Chat:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def ask(self, model: str, messages: Messages, temperature: float, seed: int, limit: int) -> Reply:
        """The answer to ``messages``, at most ``limit`` tokens; a Reply with a problem where this one will not come.

        Raises Gone when no request is answered any more, and Denied.
        """
        started_s, tries, unreadable = time.monotonic(), 0, 0
        while True:
            tries += 1
            body = {"model": model, "messages": messages, **self._traits.settings(temperature, seed, limit)}
            self._counts.requests += 1
            sent_s = time.monotonic()
            try:
                document = await self._sent(partial(self._completions.create, **body))
            except Denied as denied:
                self._patience.good()
                if self._key_may_help(denied):
                    self._counts.retries["key"] += 1
                elif self._traits.adapt(denied, body):
                    self._counts.retries["parameter"] += 1
                else:
                    raise
            except Failure as failure:
                wait_s = self._patience.wait_s(failure, tries)
                unreadable += failure.kind == "unreadable"
                long_enough = tries >= _FEWEST_TRIES and time.monotonic() - started_s > 2 * self._patience.gone_s
                its_own = long_enough and not failure.busy and failure.kind != "connection"
                if its_own or unreadable >= _MOST_UNREADABLE:
                    return Reply("", ("no_answer", f"{failure.shown}, {tries} times"))
                self._counts.retries[failure.kind] += 1
                await asyncio.sleep(wait_s)
            else:
                self._patience.good(time.monotonic() - sent_s)
                self._count_tokens(document)
                return reply_in(document, limit)

    async def models(self) -> list[str] | None:
        """The names of the server's models, None where it has no list. Raises Failure and Denied."""
        try:
            document = await self._sent(self._client.models.with_raw_response.list)
        except Denied as denied:
            if self._key_may_help(denied):
                return await self.models()
            if denied.status in (404, 405):
                return None
            raise
        except Failure as failure:
            if failure.kind == "server_error" and not failure.busy:
                return None
            raise
        listed = document.get("data", ()) if isinstance(document, dict) else ()
        if listed == () or not isinstance(listed, list | None):
            raise Denied(200, "")
        names = [model.get("id") for model in listed or () if isinstance(model, dict)]
        return [_whole(name) for name in names if isinstance(name, str) and name]

    def _key_may_help(self, denied: Denied) -> bool:
        """Whether a request that was sent without the key is to be sent with it, which is then said."""
        wanted = denied.status == 401 or (denied.status == 403 and not denied.is_policy)
        if not (denied.keyless and wanted):
            return False
        if not self._traits.wants_key:
            note(
                f"generate: the server at {self._place.shown} wants the key, which http sends in clear; https would not."
            )
        self._traits.wants_key, self._client.api_key = True, self._key
        return True

    async def _sent(self, request: Callable[[], Any]) -> Any:
        """The JSON that answers a request. Raises Failure, or Denied."""
        keyless = bool(self._key) and self._client.api_key != self._key
        try:
            async with asyncio.timeout(self._timeout_s):
                raw = await request()
        except self._openai.APIStatusError as error:
            problem = refused(error.response, self._key)
            if isinstance(problem, Denied):
                problem.keyless = keyless
            raise problem from None
        except _TooLong:
            raise Failure("unreadable", "an answer that is too long to be a text") from None
        except (TimeoutError, self._openai.APIConnectionError) as error:
            if type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout"):
                raise Failure("connection", "no connection") from None
            if isinstance(error, TimeoutError | self._openai.APITimeoutError):
                raise Failure("timeout", f"no answer within {self._timeout_s:g} s") from None
            raise Failure("dropped", "the connection broke off") from None
        try:
            return json.loads(raw.http_response.content)
        except (ValueError, RecursionError):
            raise Failure("unreadable", "an answer that is not JSON") from None

    def _count_tokens(self, document: Any) -> None:
        usage = document.get("usage") if isinstance(document, dict) else None
        for kind in ("prompt_tokens", "completion_tokens"):
            n = usage.get(kind) if isinstance(usage, dict) else None
            if isinstance(n, int) and 0 <= n < _MOST_TOKENS:
                self._counts.tokens[kind] += n


def reply_in(document: Any, limit: int) -> Reply:
    """The reply in a chat completion; ``limit`` is the number of tokens that it could have."""
    try:
        choice = document["choices"][0]
        finish = choice.get("finish_reason")
        text, refusal = choice["message"].get("content"), choice["message"].get("refusal")
    except (TypeError, KeyError, IndexError, AttributeError):
        return Reply("", ("no_answer", "no message in what the server sent"))
    text = _whole(text) if isinstance(text, str) else None
    if finish == "content_filter":
        return Reply(text or "", ("refusal", "the server's content filter"))
    if text is None and isinstance(refusal, str) and refusal:
        return Reply(_whole(refusal), ("refusal", printable(refusal, 60) or "a refusal without words"))
    if finish == "length":
        return Reply(text or "", ("truncated", f"cut off after {limit} tokens"))
    return Reply("", ("no_answer", "no text in the server's message")) if text is None else Reply(text)


def _whole(text: str) -> str:
    """The text with what stands for half a character replaced: no file could hold it."""
    return text.encode("utf-8", "replace").decode("utf-8")


@cache
def _certificates() -> ssl.SSLContext:
    return ssl.create_default_context()


async def _bound(response: Any) -> None:
    """Let no more of a response's body be read than an answer can have."""
    most = _LARGEST_LIST if response.request.url.path.endswith("/models") else _LARGEST_ANSWER
    unbounded = response.aiter_bytes

    async def bounded(chunk_size: int | None = None) -> AsyncIterator[bytes]:
        n = 0
        async with aclosing(unbounded(chunk_size)) as pieces:
            async for piece in pieces:
                n += len(piece)
                if n > most:
                    raise _TooLong
                yield piece

    response.aiter_bytes = bounded


def library() -> Any:
    """The openai library. Raises BackendError where it is not installed."""
    try:
        import openai
    except ImportError:
        raise BackendError(
            "The package openai, through which servers are asked, is not installed: pip install 'strataprobe[generate]'."
        ) from None
    return openai
