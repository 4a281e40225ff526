"""What can go wrong between us and a server: what may pass, what is denied for good, and how long one waits."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

_LONGEST_WAIT_S = 8.0
# A key shorter than this ("EMPTY", "x") is none, and its letters stand in other words.
_SHORTEST_SECRET = 8


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


def refused(response: Any, secret: str) -> Failure | Denied:
    """What an HTTP response with an error status means; ``secret`` is struck from what the server said."""
    status, said = int(response.status_code), said_in(response.content)
    if len(secret) >= _SHORTEST_SECRET:
        said = said.replace(secret, "***")
    shown = f"status {status}" + (f": {said[:200]}" if said else "")
    wait_s = _retry_after_s(response.headers)
    if status == 429 and "insufficient_quota" not in said:
        return Failure("rate_limit", shown, wait_s, busy=True)
    if status == 503:
        return Failure("server_error", shown, wait_s, busy=wait_s is not None or "loading" in said.lower())
    if status >= 500 or status in (408, 409, 425):
        return Failure("server_error", shown, wait_s)
    return Denied(status, said)


def said_in(body: bytes) -> str:
    """What a server said of an error, on one line; "" where it did not say it in JSON."""
    try:
        said = json.loads(body)
    except ValueError:
        return ""
    for name in ("error", "message", "detail"):
        if isinstance(said, dict) and said.get(name):
            more = ", ".join(said[part] for part in ("code", "param") if isinstance(said.get(part), str))
            said = f"{said[name]} ({more})" if more and isinstance(said[name], str) else said[name]
    return " ".join((said if isinstance(said, str) else json.dumps(said)).split())


def _retry_after_s(headers: Any) -> float | None:
    for name, unit_s in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return max(float(headers.get(name, "")) * unit_s, 0.0)
        except ValueError:
            pass
    try:
        return max(parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time(), 0.0)
    except ValueError:
        return None
