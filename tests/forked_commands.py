"""The real command started many times for the price of one import: a process that has loaded the libraries forks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

_SERVER = """
import gc, json, os, signal, sys, time
from strataprobe.capture import space
from strataprobe.cli import main

def command(order):
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1), os.dup2(log, 2)
    if order["said_to_be_free"]:
        space.shutil.disk_usage = lambda _: (order["said_to_be_free"], 0, order["said_to_be_free"])
    main(order["arguments"])

answers = os.fdopen(os.dup(1), "w")
first = json.loads(sys.stdin.readline())
try:
    command(first)
except SystemExit as left:
    print(left.code or 0, file=answers, flush=True)
gc.freeze()
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        signal.alarm(order["most_s"])
        command(order)
        sys.exit(0)
    if order["kill_after_s"] is not None:
        time.sleep(order["kill_after_s"])
        os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)
"""


_MOST_S = 120


class Commands:
    """Runs ``strataprobe`` commands in forked processes, one at a time; a context manager.

    The first one is run by the process that forks, so that all others find everything loaded.
    """

    def __init__(self, log: Path, *first: object) -> None:
        self._log, self._first = log, first

    def __enter__(self) -> Commands:
        quiet = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **quiet},
        )
        status, said = self.run(*self._first)
        assert status == 0, said
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(timeout=60)
        self._server.stdout.close()

    def run(
        self, *arguments: object, kill_after_s: float | None = None, said_to_be_free: int | None = None
    ) -> tuple[int, str]:
        """(status, what it said) of one command; -9 when it was killed, as ``subprocess`` tells it, -14 when it hung.

        ``said_to_be_free`` is what it believes about the disk before it begins, as when the disk fills up later.
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        order = {
            "arguments": [str(a) for a in arguments],
            "log": str(self._log),
            "kill_after_s": kill_after_s,
            "said_to_be_free": said_to_be_free,
            "most_s": _MOST_S,
        }
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        status = int(self._server.stdout.readline())
        return status, self._log.read_text("utf-8")
