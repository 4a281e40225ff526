"""Where probes come from: a trained folder with many layers, or the folder of one layer's probe files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from strataprobe.errors import ProbeError, StageError
from strataprobe.manifest import Manifest, read_json
from strataprobe.probes.files import PROBES_NAME, load_oof, load_probes
from strataprobe.probes.probe import REGRESSION, ProbeSet
from strataprobe.probes.pth import load_probe_folder
from strataprobe.probes.rewrite import AS_TRAINED
from strataprobe.store import Numbering, span

_AUC = ("cv_auc", "AUC")


@dataclass(frozen=True)
class ProbeSource:
    """Probe sets of one recipe by layer (one readout), and which layer to use when none is named.

    ``numbered`` says that the folder holds layers by our own numbers, so that a layer may be asked for.
    """

    path: Path
    sets: dict[int, ProbeSet]
    best_layer: int
    best_reason: str
    numbered: bool

    @property
    def class_names(self) -> list[str]:
        """Class names, sorted."""
        return next(iter(self.sets.values())).class_names

    @property
    def model_name(self) -> str:
        """Name of the model the probes were trained on; "" where the files do not say."""
        return next(iter(self.sets.values())).first.model

    @property
    def model_revision(self) -> str:
        """Revision of that model; "" where the files do not say."""
        return next(iter(self.sets.values())).first.model_revision

    def at(self, layer: int | None) -> ProbeSet:
        """The probe set of a layer; of the best one for None. Raises ProbeError when it is not there."""
        chosen = self.best_layer if layer is None else layer
        if chosen not in self.sets:
            raise ProbeError(f"{self.path} has no probes on layer {chosen}; there are layers {span(self.sets)}.")
        return self.sets[chosen]


def open_probes(
    path: str | Path, *, layer: int | None = None, numbering: Numbering | None = None, readout: str | None = None
) -> ProbeSource:
    """Open a folder of probes: the one that ``train`` wrote, or one layer's folder of .pth files.

    ``layer`` and ``numbering`` are for the .pth files of others, whose number is a block index. ``readout`` picks
    another readout than the primary one. Raises ProbeError when there are no probes, or not on the layer asked for.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ProbeError(f"{folder} is not a folder of probes: run 'strataprobe train' first, or correct the path.")
    if (folder / PROBES_NAME).is_file():
        return _trained(folder, readout)
    if not any(folder.glob("*.pth")):
        raise ProbeError(
            f"{folder} holds neither {PROBES_NAME} nor .pth files: give a folder that 'train' wrote, or one "
            "of its layer_K folders."
        )
    found = load_probe_folder(folder, layer=layer, numbering=numbering)
    return ProbeSource(folder, {found.layer: found}, found.layer, "the folder's only layer", numbered=False)


def _trained(folder: Path, readout: str | None) -> ProbeSource:
    trained = load_probes(folder)
    chosen = readout or trained.primary
    if chosen not in trained.readouts:
        raise ProbeError(f"{folder} has no probes for readout {chosen!r}; there are: {', '.join(trained.readouts)}.")
    sets = {layer: trained.sets[chosen, layer] for layer in trained.layers}
    compared = _comparison_of(folder, trained.manifest) if chosen == trained.primary else None
    if compared is not None and compared["best_layer"] in sets:
        return ProbeSource(folder, sets, compared["best_layer"], "best_layer of comparison.json", numbered=True)
    recorded = trained.manifest.details["layers"][chosen]
    measure, called = ("cv_r2", "R2") if trained.sets[chosen, trained.layers[0]].first.kind == REGRESSION else _AUC
    cv = {layer: recorded[str(layer)][measure] for layer in sets}
    best = min(cv, key=lambda k: (-cv[k], k))
    reason = f"highest cross-validated {called} in training, {cv[best]:.3f}"
    if compared is not None and compared["best_layer"] is None:
        reason += "; the comparison found no layer that beats its control, so expect chance"
    return ProbeSource(folder, sets, best, reason, numbered=True)


def _comparison_of(folder: Path, manifest: Manifest) -> dict[str, Any] | None:
    """The comparison beside a folder of probes, if it can be read and was made from these very probes, or from them before
    they were calibrated again, which ranks no text differently.
    """
    path = folder.resolve().parent / "comparison.json"
    try:
        document = read_json(path)
    except StageError:
        return None
    made_from = document.get("inputs", {}).get("probes") if isinstance(document, dict) else None
    return document if made_from in (manifest.files_sha256, manifest.details.get(AS_TRAINED, "")) else None


@dataclass(frozen=True)
class OutOfFold:
    """What stacking needs: raw logits (N, L, C) of the layers asked for, labels (N,), groups (N,)."""

    logits: np.ndarray
    labels: np.ndarray
    groups: np.ndarray


def out_of_fold(sets: list[ProbeSet], folders: list[Path]) -> OutOfFold:
    """Out-of-fold logits of probe sets that were trained together; ``folders`` say where each was read from.

    Raises ProbeError when they do not come from one trained folder.
    """
    roots = {root_of(folder) for folder in folders}
    root = next(iter(roots))
    if len(roots) != 1 or root is None:
        raise ProbeError(
            "a stacked ensemble needs layers of one folder that 'train' wrote, with its "
            "oof_logits.safetensors: use method 'mean' or 'vote' for probes from elsewhere."
        )
    oof = load_oof(root)
    logits = np.stack([oof.logits[s.readout, s.layer] for s in sets], axis=1)
    return OutOfFold(logits, oof.labels, oof.groups)


def root_of(folder: Path) -> Path | None:
    """The trained folder that holds a layer's folder (or is it)."""
    places = (folder, *list(folder.resolve().parents)[:2])
    return next((p.resolve() for p in places if (p / PROBES_NAME).is_file()), None)
