"""The finished data folder: a file a class, one with all texts, the audit, the manifest."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from strataprobe.dataset import Text, to_jsonl
from strataprobe.manifest import Manifest, write_atomic, write_json
from strataprobe.progress import note
from strataprobe.stagefolder import StageFolder

STAGE = "generate"
AUDIT_NAME = "audit.json"


def write_folder(
    stage: StageFolder,
    manifest: Manifest,
    name: str,
    rows: Sequence[Text],
    report: dict[str, Any],
    started_s: float,
) -> Manifest:
    """Write the class files, the combined file and the audit, say its warnings, and rename the folder into place."""
    counts = Counter(r.label for r in rows if r.label is not None)
    for left in stage.work.glob(f"*{name}_*.jsonl"):  # of an attempt that ended here, perhaps with fewer texts
        left.unlink()
    combined = f"{name}_combined_{len(rows)}.jsonl"
    write_atomic(stage.work / combined, to_jsonl(rows))
    taken = {combined.lower()}
    for label in sorted(counts):
        own = [r for r in rows if r.label == label]
        file_name = _unused_name(safe_name(label), f"_{name}_{len(own)}.jsonl", taken)
        write_atomic(stage.work / file_name, to_jsonl(own))
    write_json(stage.work / AUDIT_NAME, report)
    for finding in report["findings"]:
        if finding["level"] in ("warning", "error"):
            note(f"generate: {finding['code']} {finding['message']}")
    counted = {"combined": combined, "name": name, "counts": {label: counts[label] for label in sorted(counts)}}
    manifest.details = {**counted, **manifest.details}
    manifest.elapsed_s = round(time.monotonic() - started_s, 3)
    return stage.commit(manifest)


def _unused_name(start: str, end: str, taken: set[str]) -> str:
    """A file name for a class; two classes whose names differ only in what a file name cannot hold get a number."""
    name, number = start + end, 2
    while name.lower() in taken:
        name, number = f"{start}-{number}{end}", number + 1
    taken.add(name.lower())
    return name


def safe_name(value: str) -> str:
    """A name that can stand in a file name; letters of any script stay, and a class keeps its own name inside the rows."""
    kept = "".join(c if c.isalnum() or c in "-_" else "-" for c in value).strip("-_")
    return kept[:60] or "texts"
