"""What can go wrong between us and a server: what may pass, what is denied for good, and how long one waits."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
import unicodedata
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

_LONGEST_WAIT_S = 8.0
# A key shorter than this ("EMPTY", "x") is none, and its letters stand in other words.
_SHORTEST_SECRET = 8
# Of what a server says of an error, so much is read, and so much shown.
_LONGEST_SAID = 2000
LONGEST_SHOWN = 200
# So many prompts denied one after the other are not denied for what each of them says.
_MOST_DENIED = 8
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]?"
)
_KEYS = re.compile(r"\b(?:sk|pk|key)-[\w*.-]{4,}")
_POLICY = re.compile(
    r"moderat|flagged|content.?(?:filter|polic|management)|usage polic|safety|harmful|prohibited|violat", re.IGNORECASE
)
_OF_THE_PROMPT = re.compile(
    r"prompt|too long|too many tokens|input length|context.?(?:length|window|size)", re.IGNORECASE
)


def printable(text: str, n: int = LONGEST_SHOWN) -> str:
    """A server's words on one line of at most ``n`` characters, without escapes and characters that show nothing."""
    words = _ESCAPES.sub("", text[: 10 * n]).split()
    seen = ["".join(c for c in word if unicodedata.category(c)[0] != "C") for word in words]
    return " ".join(filter(None, seen))[:n]


class Failure(Exception):
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
    """An answer that no repetition changes: an HTTP status and what the server said, "" where that was not JSON.

    ``keyless``: the request was sent without the key that there is.
    """

    def __init__(self, status: int, said: str, keyless: bool = False) -> None:
        super().__init__(f"{status} {said}")
        self.status, self.said, self.keyless = status, said, keyless

    @property
    def shown(self) -> str:
        """The status with what the server said, cut."""
        return f"status {self.status}" + (f": {self.said[:LONGEST_SHOWN]}" if self.said else "")

    @property
    def is_policy(self) -> bool:
        """Whether the server says that it will have nothing to do with what it was sent."""
        return bool(_POLICY.search(self.said))

    @property
    def is_of_the_prompt(self) -> bool:
        """Whether the server says that it is this one prompt that it will not answer."""
        return self.is_policy or self.status == 413 or bool(_OF_THE_PROMPT.search(self.said))

    @property
    def rejection(self) -> tuple[str, str]:
        """The denial as a (check, finding) of the one text that was asked for."""
        return "refusal" if self.status == 403 or self.is_policy else "no_answer", self.shown


@dataclass
class Denials:
    """Tells a prompt that is denied from a server that denies everything, in a job of ``n`` prompts.

    ``answered``: the server has answered something of the job, now or before.
    """

    n: int
    answered: bool = False
    _row: set[object] = field(default_factory=set)

    def good(self) -> None:
        """A prompt was answered."""
        self.answered = True
        self._row.clear()

    def are_too_many(self, denied: Denied, prompt: object) -> bool:
        """Whether the denial of ``prompt`` (anything that tells it from others) must end the job.

        Where nothing was ever answered, the first denial that does not speak of the prompt does; else ``_MOST_DENIED``
        prompts in a row, or all of a smaller job. A single prompt does not, nor a few of which the server says it itself.
        """
        if denied.status not in (400, 403, 413, 422) or not (self.answered or denied.is_of_the_prompt):
            return True
        self._row.add(prompt)
        sure = self.answered and denied.is_of_the_prompt
        return len(self._row) >= (_MOST_DENIED if sure else min(max(self.n, 2), _MOST_DENIED))


@dataclass
class Patience:
    """How long a server may go on failing.

    ``gone_s`` after the first failure without an answer since; one that lets requests run into their limit of
    ``timeout_s`` may take as long again as its slowest answers have twice, if that is longer, and never less than
    ``timeout_s`` since its last sign of life. ``busy_s`` while it says that it is busy.
    """

    gone_s: float
    busy_s: float
    first_wait_s: float
    timeout_s: float
    _alive_s: float = field(default_factory=time.monotonic)
    _slowest_s: float = 0.0
    _failing_since_s: float | None = None
    _busy_since_s: float | None = None
    _hung: Failure | None = None
    _hung_since_s: float = 0.0

    def good(self, took_s: float = 0.0) -> None:
        """Something was answered, after so many seconds: the server is there."""
        self._alive_s, self._slowest_s = time.monotonic(), max(self._slowest_s, took_s)
        self._failing_since_s = self._busy_since_s = self._hung = None

    def wait_s(self, failure: Failure, tries: int) -> float:
        """Seconds to wait after the failure of try number ``tries`` (from 1). Raises Gone when the time is over."""
        left_s, asked_s = self._left_s(failure), failure.wait_s or 0.0
        if left_s <= 0 or asked_s > self.busy_s:
            raise Gone(failure)
        if asked_s > 0:
            return asked_s * (1 + 0.1 * random.random()) if failure.busy else min(asked_s, left_s)
        backoff_s = min(self.first_wait_s * 2.0 ** min(tries - 1, 16), _LONGEST_WAIT_S)
        return min(backoff_s * (0.5 + 0.5 * random.random()), left_s)

    async def watch(self) -> None:
        """Raise Gone as soon as a server that hangs has had its time, whatever is on its way; never returns."""
        while True:
            await asyncio.sleep(self.gone_s / 20)
            if self._hung is not None and time.monotonic() >= self._hung_until_s:
                raise Gone(self._hung)

    @property
    def _hung_until_s(self) -> float:
        grace_s = max(self.gone_s, min(2 * self._slowest_s, self.timeout_s))
        return max(self._hung_since_s + grace_s, self._alive_s + self.timeout_s)

    def _left_s(self, failure: Failure) -> float:
        now_s = time.monotonic()
        if failure.busy:
            self._alive_s, self._failing_since_s, self._hung = now_s, None, None
            self._busy_since_s = now_s if self._busy_since_s is None else self._busy_since_s
            return self._busy_since_s + self.busy_s - now_s
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        if failure.kind != "timeout":
            return self._failing_since_s + self.gone_s - now_s
        if self._hung is None:
            self._hung, self._hung_since_s = failure, now_s
        return self._hung_until_s - now_s


def refused(response: Any, secret: str) -> Failure | Denied:
    """What an HTTP response with an error status means; ``secret`` is struck from what the server said."""
    status, said = int(response.status_code), printable(said_in(response.content), _LONGEST_SAID)
    if len(secret) >= _SHORTEST_SECRET:
        said = said.replace(secret, "***")
    said = _KEYS.sub("***", said)
    shown = Denied(status, said).shown
    wait_s = _retry_after_s(response.headers)
    if status == 429 and "insufficient_quota" not in said:
        return Failure("rate_limit", shown, wait_s, busy=True)
    if status == 503:
        return Failure("server_error", shown, wait_s, busy=wait_s is not None or "loading" in said.lower())
    if status >= 500 or status in (408, 409, 425):
        return Failure("server_error", shown, wait_s)
    return Denied(status, said)


def said_in(body: bytes) -> str:
    """What a server said of an error; "" where it did not say it in JSON."""
    try:
        said = json.loads(body)
        for name in ("error", "message", "detail"):
            if isinstance(said, dict) and said.get(name):
                more = ", ".join(said[part] for part in ("code", "param") if isinstance(said.get(part), str))
                said = f"{said[name]} ({more})" if more and isinstance(said[name], str) else said[name]
        return said if isinstance(said, str) else json.dumps(said)
    except (ValueError, RecursionError):
        return ""


def _retry_after_s(headers: Any) -> float | None:
    for name, unit_s in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return max(float(headers.get(name, "")) * unit_s, 0.0)
        except ValueError:
            pass
    try:
        return max(parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None
