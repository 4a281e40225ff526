"""How much faster many requests at a time are than one, against a server that takes 200 ms for each answer.

    python -m bench.generate_parallel

The server runs in a process of its own and answers any number of requests at a time, so the ratio of texts per second
with 16 requests at a time to one at a time is 16 less what this side spends on each text: the request, the checks, the
ledger. Writes bench/results/generate_parallel.json and generate_parallel.md.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from strataprobe.generate.acceptance import Acceptance
from strataprobe.generate.asking import Asking
from strataprobe.generate.backends import BackendOptions
from strataprobe.generate.backends.server import Server
from strataprobe.generate.cells import make_cells
from strataprobe.generate.ledger import LEDGER_NAME, Ledger
from strataprobe.manifest import library_versions
from strataprobe.progress import Progress, set_quiet
from strataprobe.recipe import load_recipe

RESULTS = Path(__file__).parent / "results"
SERVER = Path(__file__).parent.parent / "tests" / "scripted_server.py"
COMMAND = "python -m bench.generate_parallel"
DELAY_S = 0.2
TEXTS = {1: 40, 16: 640}
ROUNDS = 3
LOWEST_RATIO = 14.0


@contextmanager
def server() -> Iterator[str]:
    """The address of a server that answers each request after DELAY_S, in a process of its own."""
    command = [sys.executable, str(SERVER), "--delay", str(DELAY_S)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def write(url: str, parallel: int, n_texts: int) -> float:
    """Seconds for ``n_texts`` texts; each asked for once, checked, and on disk."""
    recipe = load_recipe("sentiment")
    plan = make_cells(recipe, n_texts // len(recipe.class_names), 0)
    backend = Server("openai", BackendOptions(base_url=url, parallel=parallel))
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / LEDGER_NAME) as ledger:
        asking = Asking(recipe, plan, Acceptance(recipe), ledger, Progress("write", n_texts, "texts"), 1)
        started_s = time.perf_counter()
        backend.write(asking, 0)
        elapsed_s = time.perf_counter() - started_s
    assert not asking.missing()
    assert len(ledger.entries) == backend.details()["requests"] == n_texts
    return elapsed_s


def measure() -> dict[str, Any]:
    """Texts per second for each number of requests at a time: medians of interleaved rounds, and their ratio."""
    per_s: dict[int, list[float]] = {parallel: [] for parallel in TEXTS}
    for _ in range(ROUNDS):
        for parallel, n_texts in TEXTS.items():
            with server() as url:
                write(url, parallel, 2 * parallel)  # to warm up
                per_s[parallel].append(n_texts / write(url, parallel, n_texts))
    medians = {parallel: statistics.median(found) for parallel, found in per_s.items()}
    ratios = [many / one for one, many in zip(per_s[1], per_s[16], strict=True)]
    return {
        "what": f"a server that takes {DELAY_S * 1000:.0f} ms for each answer",
        "texts": TEXTS,
        "texts_per_s": medians,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "own_ms_per_text": 1000 * (1 / medians[1] - DELAY_S),
    }


def table(result: dict[str, Any], machine: dict[str, Any]) -> str:
    """The result as a Markdown page."""
    ratios = ", ".join(f"{ratio:.1f}" for ratio in result["ratios"])
    return "\n".join(
        [
            "# Requests at a time",
            "",
            f"Written by `{COMMAND}`: {machine['cores']} cores, {machine['machine']}, Python {machine['python']}.",
            "",
            f"{result['what'].capitalize()}, in a process of its own; medians of {ROUNDS} interleaved rounds.",
            "",
            "| `--parallel` | texts | texts per second |",
            "| ---: | ---: | ---: |",
            *(f"| {n} | {result['texts'][n]} | {per_s:.2f} |" for n, per_s in result["texts_per_s"].items()),
            "",
            f"Ratio: {result['ratio']:.1f} (rounds: {ratios}); 16.0 is the most there can be.",
            f"Own time for each text, one at a time: {result['own_ms_per_text']:.1f} ms.",
            "",
        ]
    )


def main() -> None:
    """Measure, write the results, and fail when many at a time are too little faster."""
    set_quiet(True)
    result = measure()
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    document = {"command": COMMAND, "machine": machine, "versions": library_versions(), "results": result}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "generate_parallel.json").write_text(json.dumps(document, indent=2) + "\n")
    page = table(result, machine)
    (RESULTS / "generate_parallel.md").write_text(page)
    print(page)
    assert result["ratio"] >= LOWEST_RATIO, f"{result['ratio']:.1f} times, below {LOWEST_RATIO}"


if __name__ == "__main__":
    main()
