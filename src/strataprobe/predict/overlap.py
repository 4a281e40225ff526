"""Whether labelled texts are among those that probes were trained or tuned on, where every figure flatters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from strataprobe.dataset import Text
from strataprobe.errors import StrataprobeError
from strataprobe.predict.sources import root_of
from strataprobe.probes.files import load_oof
from strataprobe.progress import note
from strataprobe.store import TEXTS_NAME, ActivationFolder

_TRAINED_ON = ("train", "val")


def note_seen(probes: Path, rows: Sequence[Text]) -> None:
    """Note how many of ``rows`` trained or tuned the probes of a folder, or of one of its layers' folders; if any."""
    n_seen = _n_seen(probes, rows)
    if n_seen:
        note(f"{n_seen:,} of {len(rows):,} texts trained or tuned these probes; on them the figures flatter.")


def _n_seen(probes: Path, rows: Sequence[Text]) -> int:
    """Texts are compared where those trained on lie beside the probes, else ids; 0 where neither is known.

    An id that is a number is no sign: rows without one are numbered.
    """
    root = root_of(probes)
    if root is None:
        return 0
    try:
        ids = set(load_oof(root).ids)
    except StrataprobeError:
        return 0
    known = _texts_beside(root)
    if ids <= known.keys():
        texts = set(known.values())
        return sum(json.dumps(row.content) in texts for row in rows)
    return sum(row.id in ids and not row.id.isdecimal() for row in rows)


def _texts_beside(root: Path) -> dict[str, str]:
    """The train and val texts beside a probes folder, by id; none where there are no activations of ours."""
    place = root.resolve().parent / "activations"
    if not (place / TEXTS_NAME).is_file():
        return {}
    try:
        rows = ActivationFolder.open(place).texts()
        return {row["id"]: json.dumps(row.get("messages", row["text"])) for row in rows if row["split"] in _TRAINED_ON}
    except (StrataprobeError, KeyError):
        return {}
