"""A headless Chromium driven over its debugging pipe (null-ended JSON on file descriptors 3 and 4), nothing installed.

A page is watched from before it starts to load: every request it makes, every message on its console, every error.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_WAIT_S = 60.0
# Puts the pipes where Chromium looks for them, by way of high numbers lest one copy close the other's source.
_LAUNCH = """
import os, sys
high = os.dup2(int(sys.argv[1]), 103), os.dup2(int(sys.argv[2]), 104)
os.dup2(high[0], 3)
os.dup2(high[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find_chromium() -> str | None:
    """The first Chromium on PATH, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class Watched:
    """What a page did: addresses it asked for beside itself and data: links, and what went wrong, in words."""

    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Browser:
    """One browser with one page at a time; a context manager that ends the browser it started."""

    def __init__(self, program: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                   "--disable-background-networking", "--disable-extensions", "--remote-debugging-pipe",
                   f"--user-data-dir={self._folder.name}", "about:blank"]  # fmt: skip

        ends = (theirs_in, theirs_out)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, *map(str, ends), *command],
            pass_fds=ends,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out = ours_in, ours_out
        self._waiting, self._number = b"", 0
        self._session: str | None = None
        self._loaded = False
        self.watched = Watched()
        self._attach()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.call("Browser.close", on_page=False)
        except (OSError, RuntimeError):
            self._process.kill()
        self._process.wait(_WAIT_S)
        os.close(self._in)
        os.close(self._out)
        self._folder.cleanup()

    def _attach(self) -> None:
        target = self.call("Target.createTarget", {"url": "about:blank"}, on_page=False)["targetId"]
        flat = {"targetId": target, "flatten": True}
        self._session = self.call("Target.attachToTarget", flat, on_page=False)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def open(self, path: Path, *, width: int, height: int, dark: bool = False) -> Watched:
        """Load a file in a window of that size; returns what it did by the time it stood still."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 640}
        self.call("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.watched = Watched()
        self._loaded = False
        self.call("Page.navigate", {"url": path.resolve().as_uri()})
        deadline = time.monotonic() + _WAIT_S
        while not self._loaded:
            self._take(self._read(deadline))
        self.value("new Promise(done => setTimeout(done, 50))")
        return self.watched

    def value(self, script: str) -> Any:
        """What a script of the page gives, a promise awaited."""
        options = {"expression": script, "awaitPromise": True, "returnByValue": True}
        answer = self.call("Runtime.evaluate", options)
        if "exceptionDetails" in answer:
            raise RuntimeError(
                f"the script failed: {answer['exceptionDetails'].get('exception', {}).get('description')}"
            )
        return answer["result"].get("value")

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """A PNG of the page, all of its length or what is in the window."""
        options: dict[str, Any] = {"format": "png", "captureBeyondViewport": whole}
        if whole:
            box = self.call("Page.getLayoutMetrics")["cssContentSize"]
            options["clip"] = {"x": 0, "y": 0, "width": box["width"], "height": box["height"], "scale": 1}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", options)["data"]))

    def call(self, method: str, params: dict[str, Any] | None = None, *, on_page: bool = True) -> dict[str, Any]:
        """One command of the protocol; what happens meanwhile is taken down."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params or {}}
        if on_page:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        deadline = time.monotonic() + _WAIT_S
        while True:
            answer = self._read(deadline)
            if answer.get("id") != self._number:
                self._take(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']['message']}")
            else:
                return dict(answer["result"])

    def _read(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._waiting:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._in], [], [], left)[0]:
                raise RuntimeError(f"the browser said nothing for {_WAIT_S:.0f} s")
            chunk = os.read(self._in, 1 << 20)
            if not chunk:
                raise RuntimeError("the browser ended")
            self._waiting += chunk
        message, _, self._waiting = self._waiting.partition(b"\0")
        return dict(json.loads(message))

    def _take(self, event: dict[str, Any]) -> None:
        """Note an event of the page."""
        method, values = event.get("method"), event.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            address = values["request"]["url"]
            if values.get("type") != "Document" and not address.startswith(("data:", "blob:")):
                self.watched.requests.append(address)
        elif method == "Runtime.exceptionThrown":
            details = values["exceptionDetails"]
            self.watched.problems.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning", "assert"):
            self.watched.problems.append(" ".join(str(a.get("value", a.get("description"))) for a in values["args"]))
        elif method == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"):
            self.watched.problems.append(values["entry"]["text"])
