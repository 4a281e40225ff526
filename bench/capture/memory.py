"""Peak host memory of ``strataprobe capture`` on 20,000 and on 200,000 short texts with ids, groups and splits.

    python -m bench.capture.memory

A tiny Gemma 3 (width 32, 3 layers) with random weights; each capture in a process of its own, whose peak resident memory is
what the system says of it at its end. Writes bench/results/capture_memory.json and capture_memory.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from strataprobe.manifest import library_versions

RESULTS = Path(__file__).parent.parent / "results"
ALLOWED_MB = 100.0
SHORTEST, LONGEST = 6, 14
CAPTURE = "from strataprobe.cli import main; main()"
MAKE = f"""
import sys
from pathlib import Path
from bench.capture.standin import SHAPES, save_model, write_texts
folder, shape = Path(sys.argv[1]), {{**SHAPES["tiny"], "num_hidden_layers": 3}}
save_model(folder / "model", shape)
for n_texts in map(int, sys.argv[2:]):
    write_texts(folder / f"{{n_texts}}.jsonl", shape["vocab_size"], n_texts, {SHORTEST}, {LONGEST})
"""


def capture_once(folder: Path, n_texts: int) -> dict[str, float]:
    """Peak resident memory in megabytes and seconds of one capture.

    A new process starts with its parent's peak, so this module imports nothing large.
    """
    out = folder / f"activations_{n_texts}"
    command = [sys.executable, "-c", CAPTURE, "capture", "--data", str(folder / f"{n_texts}.jsonl")]
    command += ["--model", str(folder / "model"), "--out", str(out), "--quiet"]
    started_s = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    took_s = time.perf_counter() - started_s
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, f"{' '.join(command)} ended with {child.returncode}"
    assert json.loads((out / "manifest.json").read_text())["details"]["captured"]["main"]["n_texts"] == n_texts
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return {"peak_mb": usage.ru_maxrss * unit_bytes / 1e6, "seconds": took_s}


def page(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    machine = document["machine"]
    lines = [
        "# Host memory of a capture",
        "",
        f"Written by `{document['command']}`: {machine['cores']} cores, {machine['machine']}. Texts of {SHORTEST} to "
        f"{LONGEST} tokens with ids, groups and splits; Gemma 3 of width 32 with 3 layers; readouts last and mean; "
        f"medians of {document['repeats']} interleaved captures, each a process of its own.",
        "",
        "| texts | peak resident memory, MB | seconds |",
        "| ---: | ---: | ---: |",
        *(f"| {int(n):,} | {f['peak_mb']:.1f} | {f['seconds']:.1f} |" for n, f in document["captures"].items()),
        "",
        f"The larger takes {document['difference_mb']:.1f} MB more; at most {ALLOWED_MB:.0f} MB is wanted.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the captures and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, nargs=2, default=[20_000, 200_000])
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    found: dict[int, list[dict[str, float]]] = {n: [] for n in chosen.texts}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        subprocess.run([sys.executable, "-c", MAKE, made, *map(str, chosen.texts)], check=True)
        for turn in range(chosen.repeats):
            for n_texts in chosen.texts:
                found[n_texts].append(capture_once(folder, n_texts))
                shutil.rmtree(folder / f"activations_{n_texts}")
                print(f"round {turn + 1}, {n_texts:,} texts: {found[n_texts][-1]}", file=sys.stderr, flush=True)
    captures = {
        str(n): {key: round(statistics.median(one[key] for one in runs), 2) for key in ("peak_mb", "seconds")}
        for n, runs in found.items()
    }
    few, many = (captures[str(n)]["peak_mb"] for n in chosen.texts)
    document = {
        "command": " ".join(["python -m bench.capture.memory", *sys.argv[1:]]),
        "machine": {"cores": os.cpu_count(), "machine": platform.machine()},
        "versions": library_versions(),
        "repeats": chosen.repeats,
        "captures": captures,
        "peaks_mb": {str(n): [round(one["peak_mb"], 2) for one in runs] for n, runs in found.items()},
        "difference_mb": round(many - few, 2),
        "allowed_mb": ALLOWED_MB,
    }
    (RESULTS / "capture_memory.json").write_text(json.dumps(document, indent=2) + "\n")
    (RESULTS / "capture_memory.md").write_text(page(document))
    print(page(document))


if __name__ == "__main__":
    main()
