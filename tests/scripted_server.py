"""An OpenAI-compatible server on loopback that answers what a test tells it to, and keeps what it was asked.

In a thread as a context manager (``with ScriptedServer() as server``), or in a process of its own for measurements:
``python tests/scripted_server.py --delay 0.2`` prints its address and answers until its standard input is closed.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

MODEL = "scripted"
_WHO = [
    "sister", "neighbour", "manager", "teacher", "doctor", "driver", "baker", "gardener", "cousin", "painter",
    "postman", "captain",
]  # fmt: skip
_DID = [
    "opened", "closed", "carried", "mended", "painted", "washed", "folded", "dropped", "found", "lifted", "turned",
    "wrapped",
]  # fmt: skip
_WHAT = [
    "window", "basket", "kettle", "letter", "ladder", "blanket", "bicycle", "drawer", "curtain", "bottle", "hammer",
    "ticket", "lantern", "saucepan", "notebook", "umbrella", "suitcase", "mirror", "cushion", "envelope",
]  # fmt: skip
_WHERE = [
    "kitchen", "garage", "station", "market", "library", "harbour", "corridor", "bakery", "courtyard", "workshop",
    "attic", "museum",
]  # fmt: skip
_WHEN = [
    "morning", "afternoon", "evening", "winter", "summer", "holiday", "weekend", "journey", "lesson", "meeting",
    "concert", "storm",
]  # fmt: skip


def good_text(number: int) -> str:
    """An English text that every check lets pass, another one for every number."""
    draw = random.Random(number)

    def some(words: Sequence[str]) -> str:
        return draw.choice(words)

    first = f"After the {some(_WHEN)} I {some(_DID)} the {some(_WHAT)} in the {some(_WHERE)} with my {some(_WHO)}"
    second = f"My {some(_WHO)} {some(_DID)} a {some(_WHAT)} and a {some(_WHAT)} near the {some(_WHERE)}"
    third = f"Then we {some(_DID)} every {some(_WHAT)} before the {some(_WHEN)} and walked to the {some(_WHERE)}"
    return f"{first}. {second}. {third}."


@dataclass(frozen=True)
class Answer:
    """What to do with one request: ``unsent`` bytes are announced and never come; ``reset`` breaks the connection.

    ``drip_s`` sends the body in ten pieces, with so long a wait before each.
    """

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    unsent: int = 0
    reset: bool = False
    drip_s: float = 0.0


def completion(text: str | None, finish: str = "stop", **message: Any) -> Answer:
    """A chat completion, with a usage of 20 tokens for the prompt and 10 for the answer."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    usage = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
    return document({"id": "1", "object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage})


def document(value: Any, status: int = 200, **headers: str) -> Answer:
    """Any JSON."""
    return Answer(json.dumps(value).encode(), status, {"Content-Type": "application/json", **headers})


def error(status: int, message: str = "no", headers: Mapping[str, str] | None = None, **more: Any) -> Answer:
    """An error as OpenAI's API words it."""
    return document({"error": {"message": message, "type": "error", **more}}, status, **dict(headers or {}))


def page(status: int = 200) -> Answer:
    """An HTML page."""
    return Answer(b"<html><body>Welcome</body></html>", status, {"Content-Type": "text/html"})


Script = Callable[[int, dict[str, Any]], Answer]


class ScriptedServer:
    """Answers each chat request with what ``script`` returns for its number (from 1) and body.

    ``requests`` are the bodies of the chat requests in order, ``at_s`` the times they came. After ``dies_after`` of them
    the next one finds its connection reset, and so do all others: nothing listens any more.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        models: Answer | None = None,
        dies_after: int | None = None,
        port: int = 0,
    ) -> None:
        self.script = script or (lambda number, body: completion(good_text(number)))
        self.models = models or model_list(MODEL)
        self.dies_after = dies_after
        self.requests: list[dict[str, Any]] = []
        self.at_s: list[float] = []
        self.keys: list[str] = []
        self.at_once = self.most_at_once = 0
        self.dead = False
        self.lock = threading.Lock()
        self._dying = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._http = _Http(("127.0.0.1", port), _Handler)
        self._http.scripted = self
        self.port = int(self._http.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        self.reset_all()

    def reset_all(self) -> None:
        """Break every connection there is."""
        with self.lock:
            for connection in self._sockets:
                break_off(connection)

    def die(self) -> None:
        """Stop listening for good and break every connection."""
        with self._dying:
            self.dead = True
            self._http.shutdown()
            self._http.server_close()
        self.reset_all()

    def connected(self, connection: socket.socket, there: bool) -> None:
        """Keep account of a connection that was opened or closed."""
        with self.lock:
            (self._sockets.add if there else self._sockets.discard)(connection)

    def answer(self, body: dict[str, Any], key: str) -> Answer:
        """The answer to a chat request."""
        with self.lock:
            if self.dead or (self.dies_after is not None and len(self.requests) >= self.dies_after):
                self.dead = True
            else:
                self.requests.append(body)
                self.at_s.append(time.monotonic())
                self.keys.append(key)
            number = len(self.requests)
        if self.dead:
            self.die()
            return Answer(b"", reset=True)
        return self.script(number, body)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    scripted: ScriptedServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that the client, or the script, broke off is no error."""
        if not isinstance(sys.exc_info()[1], OSError | ValueError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Http

    def setup(self) -> None:
        super().setup()
        self.server.scripted.connected(self.connection, True)

    def finish(self) -> None:
        self.server.scripted.connected(self.connection, False)
        super().finish()

    def do_GET(self) -> None:
        """The list of models, wherever it is asked for."""
        found = self.path.endswith("/models")
        self._send(self.server.scripted.models if found else error(404, "no such page"))

    def do_POST(self) -> None:
        """A chat request."""
        scripted = self.server.scripted
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.path.endswith("/v1/chat/completions"):
            self._send(Answer(b"404 page not found", 404, {"Content-Type": "text/plain"}))
            return
        with scripted.lock:
            scripted.at_once += 1
            scripted.most_at_once = max(scripted.most_at_once, scripted.at_once)
        answer = scripted.answer(body, self.headers.get("Authorization", ""))
        time.sleep(answer.wait_s)
        with scripted.lock:
            scripted.at_once -= 1
        self._send(answer)

    def _send(self, answer: Answer) -> None:
        if answer.reset:
            self.close_connection = True
            break_off(self.connection)
            return
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body) + answer.unsent)}.items():
            self.send_header(name, value)
        self.end_headers()
        size = -(-len(answer.body) // 10) if answer.drip_s else len(answer.body)
        for start in range(0, len(answer.body), size or 1):
            time.sleep(answer.drip_s)
            self.wfile.write(answer.body[start : start + size])
            self.wfile.flush()
        if answer.unsent:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""


def model_list(*names: str) -> Answer:
    """The list of models as vLLM, llama.cpp and Ollama send it."""
    return document({"object": "list", "data": [{"id": name, "object": "model"} for name in names]})


def break_off(connection: socket.socket) -> None:
    """Close a connection so that the other side sees it reset."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it was closed already


def free_port() -> int:
    """A port on loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Serve good texts, each after a delay in seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=0.0, metavar="S")
    delay_s = parser.parse_args().delay

    def script(number: int, body: dict[str, Any]) -> Answer:
        return replace(completion(good_text(number)), wait_s=delay_s)

    with ScriptedServer(script) as server:
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
