"""One chat request to an OpenAI-compatible server: sent, sent again while that can help, and its answer read."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit

from strataprobe.errors import BackendError
from strataprobe.generate.prompts import Messages
from strataprobe.progress import note

_T = TypeVar("_T")

KEY_VARIABLE = "OPENAI_API_KEY"
_CONNECT_S = 10.0
_LONGEST_WAIT_S = 8.0
# A server that sends something else than JSON so often for one request is not going to send an answer to it.
_MOST_UNREADABLE = 3
_FEWEST_TRIES = 4
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_NOT_TAKEN = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|unexpected|not permitted|not allowed|extra|invalid|unused", re.I
)


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


class Failure(Exception):  # noqa: N818
    """A request that may do better when it is sent again. ``busy``: the server is there and asks for time."""

    def __init__(self, kind: str, shown: str, wait_s: float | None = None, busy: bool = False) -> None:
        super().__init__(shown)
        self.kind, self.shown, self.wait_s, self.busy = kind, shown, wait_s, busy


class Gone(Exception):
    """No request has been answered for longer than one waits."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.shown)
        self.failure = failure


class Denied(Exception):
    """An answer that no repetition changes: an HTTP status and what the server said, "" where that was not JSON."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status} {said}")
        self.status, self.said = status, said


@dataclass
class Patience:
    """How long a server may go without one good answer: ``gone_s``, or ``busy_s`` while it says that it is busy."""

    gone_s: float
    busy_s: float
    first_wait_s: float
    _failing_since_s: float | None = None

    def good(self) -> None:
        """Something was answered: the server is there."""
        self._failing_since_s = None

    def wait_s(self, failure: Failure, tries: int) -> float:
        """Seconds to wait after the failure of try number ``tries`` (from 1). Raises Gone when the time is over."""
        now_s = time.monotonic()
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        left_s = (self.busy_s if failure.busy else self.gone_s) - (now_s - self._failing_since_s)
        asked_s = failure.wait_s or 0.0
        if left_s <= 0 or asked_s > self.busy_s:
            raise Gone(failure)
        if asked_s > 0:
            return asked_s * (1 + 0.1 * random.random())
        backoff_s = min(self.first_wait_s * 2.0 ** min(tries - 1, 16), _LONGEST_WAIT_S)
        return min(backoff_s * (0.5 + 0.5 * random.random()), left_s)


class Chat:
    """Connections to the server at ``base_url``, as an async context manager, for one event loop."""

    def __init__(self, base_url: str, timeout_s: float, counts: Counts, patience: Patience, traits: Traits) -> None:
        self._timeout_s, self._counts, self._patience, self._traits = timeout_s, counts, patience, traits
        self._key = os.environ.get(KEY_VARIABLE, "").strip() or "none"
        openai = library()
        # A proxy is for servers elsewhere; sent through one, a request to this machine would not come back to it.
        here = urlsplit(base_url).hostname in _LOOPBACK
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=self._key,
            max_retries=0,
            timeout=openai.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_S)),
            http_client=openai.DefaultAsyncHttpxClient(trust_env=not here),
        )

    async def __aenter__(self) -> Chat:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def ask(self, model: str, messages: Messages, temperature: float, limit: int, seed: int) -> Reply:
        """The answer to ``messages``, at most ``limit`` tokens; a Reply with a problem where this one will not come.

        Raises Gone when no request is answered any more, and Denied.
        """
        first_s, tries, unreadable = time.monotonic(), 0, 0
        while True:
            tries += 1
            settings = {"temperature": temperature, "seed": seed, self._traits.limit_name: limit}
            body = {"model": model, "messages": messages}
            body |= {name: value for name, value in settings.items() if name not in self._traits.dropped}
            try:
                document = await self._post(body)
            except Denied as denied:
                if denied.status == 400 and "content_filter" in denied.said:
                    self._patience.good()
                    return Reply("", ("refusal", "the server's content filter"))
                if not self._traits.adapt(denied, body):
                    raise
                self._patience.good()
                self._counts.retries["parameter"] += 1
            except Failure as failure:
                unreadable += failure.kind == "unreadable"
                wait_s = self._patience.wait_s(failure, tries)
                long_enough = tries >= _FEWEST_TRIES and time.monotonic() - first_s > self._patience.gone_s
                if unreadable >= _MOST_UNREADABLE or (long_enough and not failure.busy):
                    return Reply("", ("no_answer", f"{failure.shown}, after {tries} requests"))
                self._counts.retries[failure.kind] += 1
                await asyncio.sleep(wait_s)
            else:
                self._patience.good()
                return self._read(document, limit)

    async def models(self) -> list[str] | None:
        """The names of the server's models, None where it has no list. Raises Failure and Denied."""
        try:
            document = await self._sent(lambda: self._client.models.with_raw_response.list())
        except Denied as denied:
            if denied.status in (404, 405):
                return None
            raise
        except Failure as failure:
            if failure.kind in ("server_error", "rate_limit") and not failure.busy:
                return None
            raise
        listed = document.get("data") if isinstance(document, dict) else None
        if not isinstance(document, dict) or "data" not in document or not isinstance(listed, list | None):
            raise Denied(200, "")
        return [str(m["id"]) for m in listed or () if isinstance(m, dict) and "id" in m]

    async def _post(self, body: dict[str, Any]) -> Any:
        self._counts.requests += 1
        return await self._sent(lambda: self._client.chat.completions.with_raw_response.create(**body))

    async def _sent(self, request: Callable[[], Any]) -> Any:
        """The JSON that answers a request. Raises Failure, or Denied."""
        openai = library()
        try:
            async with asyncio.timeout(self._timeout_s):
                raw = await request()
        except (TimeoutError, openai.APITimeoutError):
            raise Failure("timeout", f"no answer within {self._timeout_s:g} s") from None
        except openai.APIStatusError as error:
            raise self._refused(error.response) from None
        except openai.APIConnectionError as error:
            unreachable = type(error.__cause__).__name__.startswith("Connect")
            shown = "no connection" if unreachable else "the connection broke off"
            raise Failure("connection" if unreachable else "dropped", shown) from None
        try:
            return json.loads(raw.http_response.content)
        except ValueError:
            raise Failure("unreadable", "an answer that is not JSON") from None

    def _refused(self, response: Any) -> Failure | Denied:
        status, said = int(response.status_code), said_in(response.content).replace(self._key, "***")
        shown = f"status {status}" + (f", {said[:200]!r}" if said else "")
        wait_s = _retry_after_s(response.headers)
        if status == 429 and "insufficient_quota" not in said:
            return Failure("rate_limit", shown, wait_s, busy=True)
        if status == 503:
            return Failure("server_error", shown, wait_s, busy=wait_s is not None or "loading" in said.lower())
        if status >= 500 or status in (408, 409, 425):
            return Failure("server_error", shown, wait_s)
        return Denied(status, said)

    def _read(self, document: Any, limit: int) -> Reply:
        usage = document.get("usage") if isinstance(document, dict) else None
        for kind in ("prompt_tokens", "completion_tokens"):
            if isinstance(usage, dict) and isinstance(usage.get(kind), int):
                self._counts.tokens[kind] += usage[kind]
        try:
            choice = document["choices"][0]
            message, finish = choice["message"], choice.get("finish_reason")
            text, refusal = message.get("content"), message.get("refusal")
        except (TypeError, KeyError, IndexError, AttributeError):
            return Reply("", ("no_answer", "no message in what the server sent"))
        text = text if isinstance(text, str) else None
        if finish == "content_filter":
            return Reply(text or "", ("refusal", "the server's content filter"))
        if text is None and isinstance(refusal, str) and refusal:
            return Reply(refusal, ("refusal", refusal[:60]))
        if finish == "length":
            return Reply(text or "", ("truncated", f"cut off after {limit} tokens"))
        return Reply(text, None) if text is not None else Reply("", ("no_answer", "no text in the server's message"))


@dataclass
class Traits:
    """What of the usual settings a server does not take, found out once and kept."""

    limit_name: str = "max_tokens"
    dropped: set[str] = field(default_factory=set)

    def adapt(self, denied: Denied, body: dict[str, Any]) -> bool:
        """Whether the request ``body``, denied for one of its settings, is worth sending again in another form."""
        if denied.status not in (400, 422) or not _NOT_TAKEN.search(denied.said):
            return False
        for name in ("seed", "temperature"):
            if name in body and re.search(rf"\b{name}\b", denied.said):
                if name not in self.dropped:
                    note(f"generate: the server takes no {name!r}, going on without it.")
                self.dropped.add(name)
                return True
        if "max_tokens" in body and re.search(r"\bmax_tokens\b", denied.said):
            self.limit_name = "max_completion_tokens"
            return True
        return False


def library() -> Any:
    """The openai library. Raises BackendError where it is not installed."""
    try:
        import openai
    except ImportError:
        raise BackendError(
            "The package openai, through which servers are asked, is not installed: pip install 'strataprobe[generate]'."
        ) from None
    return openai


def said_in(body: bytes) -> str:
    """What a server said of an error, on one line; "" where it did not say it in JSON."""
    try:
        document = json.loads(body)
    except ValueError:
        return ""
    said = document
    for name in ("error", "message", "detail"):
        if isinstance(said, dict) and said.get(name):
            more = [str(said[part]) for part in ("code", "param") if isinstance(said.get(part), str)]
            said = said[name] if not more or isinstance(said[name], dict) else f"{said[name]} ({', '.join(more)})"
    return " ".join((said if isinstance(said, str) else json.dumps(said)).split())


def _retry_after_s(headers: Any) -> float | None:
    for name, unit_s in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = str(headers.get(name) or "")
        try:
            return max(float(value) * unit_s, 0.0)
        except ValueError:
            pass
    try:
        return max(parsedate_to_datetime(str(headers.get("retry-after"))).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return None
