"""The main job on the demo model, done once for all the tests that look at its results."""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

STRATAPROBE = str(Path(sys.executable).with_name("strataprobe"))


@dataclass(frozen=True)
class DemoRun:
    """``folder`` is the working folder, ``out`` the run's own (``outputs/demo`` below it)."""

    folder: Path
    out: Path
    stdout: str
    elapsed_s: float
    peak_memory_bytes: int


def command_line(*arguments: object, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command in a process of its own."""
    return subprocess.run(
        [STRATAPROBE, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **more},
        timeout=300,
    )


def in_process(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process, which has loaded the libraries already."""
    from strataprobe.cli import main

    out, err = io.StringIO(), io.StringIO()
    status = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(a) for a in arguments])
        except SystemExit as left:
            status = int(left.code or 0)
    return subprocess.CompletedProcess(["strataprobe"], status, out.getvalue(), err.getvalue())


@functools.cache
def demo_run() -> DemoRun:
    """``strataprobe run sentiment --model demo --out outputs/demo``, as ``make run`` does it."""
    folder = Path(tempfile.mkdtemp(prefix="strataprobe-demo-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    started_s = time.monotonic()
    done = command_line("run", "sentiment", "--model", "demo", "--out", "outputs/demo", cwd=folder)
    elapsed_s = time.monotonic() - started_s
    assert done.returncode == 0, done.stderr
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return DemoRun(folder, folder / "outputs" / "demo", done.stdout, elapsed_s, peak)
