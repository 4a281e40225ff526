"""What adapting did, as a table: used by 'train --from'."""

from __future__ import annotations

from typing import Any

from strataprobe.cli.output import number, print_table, print_wrapped
from strataprobe.manifest import Manifest


def print_adaptation(manifest: Manifest) -> None:
    """AUC, accuracy and calibration error by layer before and after, on the new text and on the old."""
    for readout, by_layer in manifest.details["layers"].items():
        layers = sorted(by_layer, key=int)
        for domain in ("new", "old"):
            measured = [by_layer[k]["adapted"][domain] for k in layers]
            if "skipped" in measured[0]:
                print_wrapped(f"{domain} text, readout {readout}: not measured, as {measured[0]['skipped']}")
                continue
            title = f"{domain} text ({measured[0]['measured_on']}, n = {measured[0]['n']:,}), readout {readout}"
            print_table(
                f"{title}: before > after",
                ["layer", "AUC", "accuracy", "ECE"],
                [[k, *_changes(m)] for k, m in zip(layers, measured, strict=True)],
            )


def _changes(measured: dict[str, Any]) -> list[str]:
    before, after = measured["before"], measured["after"]
    return [f"{number(before[key])} > {number(after[key])}" for key in ("auc", "accuracy", "ece")]
