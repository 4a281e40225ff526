"""Files of a probes folder: ``probes.safetensors`` and ``oof_logits.safetensors``, each with one JSON metadata key, so
that the same values are the same bytes; the ``.pth`` export is in ``pth.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

from strataprobe.errors import ProbeError, StageError
from strataprobe.manifest import Manifest, read_manifest, sha256_file, write_atomic
from strataprobe.probes.calibration import Calibration
from strataprobe.probes.network import Network, checked_network
from strataprobe.probes.probe import Probe, ProbeSet

PROBES_NAME = "probes.safetensors"
OOF_NAME = "oof_logits.safetensors"
_METADATA_KEY = "strataprobe"
_PARTS = ("weight", "bias", "threshold", "calibration")
_SCALE = "scale"


def tensor_name(readout: str, layer: int, part: str = "") -> str:
    """Name of a tensor: "{readout}.layer_{K}", with ".{part}" where there are parts."""
    return f"{readout}.layer_{layer}" + (f".{part}" if part else "")


def pack(tensors: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> bytes:
    """Bytes of a safetensors file whose only metadata key holds ``header`` as JSON with sorted keys."""
    text = json.dumps(header, sort_keys=True, ensure_ascii=True, allow_nan=False)
    whole = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    return bytes(safetensors_bytes(whole, metadata={_METADATA_KEY: text}))


def unpack(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Tensors and header of a file that ``pack`` wrote. Raises ProbeError when it is missing or damaged."""
    if not path.is_file():
        raise ProbeError(f"{path} is missing: run 'strataprobe train' again.")
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})[_METADATA_KEY])
            return dict(_tensors(file)), header
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ProbeError(
            f"{path} cannot be read ({type(error).__name__}): it is damaged or cut short; run "
            "'strataprobe train' again."
        ) from error


def _tensors(file: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    for name in sorted(file.keys()):
        yield name, file.get_tensor(name)


@dataclass(frozen=True, eq=False)
class TrainedProbes:
    """Everything in a probes folder: ``sets`` by (readout, layer); ``readouts`` primary first; ``layers`` ascending.

    ``scales`` hold, for the same keys where they are known, the standard deviations (D,) float32 of the rows the probes
    were fitted on. ``info`` has model_name, model_revision, prefix, suffix, template and recipe_name, "" where unknown.
    """

    manifest: Manifest
    class_names: list[str]
    layers: list[int]
    readouts: list[str]
    sets: dict[tuple[str, int], ProbeSet]
    info: dict[str, Any]
    scales: dict[tuple[str, int], NDArray[np.float32]] = field(default_factory=dict)

    @property
    def primary(self) -> str:
        """The primary readout."""
        return self.readouts[0]


@dataclass(frozen=True, eq=False)
class Oof:
    """Out-of-fold logits of the labelled train and val rows, in file order; of probes of values, their values.

    ``logits`` by (readout, layer), each (N, C) float32; ``labels``, ``folds`` and ``groups`` (an index) (N,) int64.
    They are on the scale of the layer's own probe: its calibration turns them into log-odds. Within a fold they come
    from one probe, and AUCs are taken there.
    """

    logits: dict[tuple[str, int], NDArray[np.float32]]
    labels: NDArray[np.int64]
    folds: NDArray[np.int64]
    groups: NDArray[np.int64]
    ids: list[str]
    class_names: list[str]
    targets: NDArray[np.float32] | None = None


def write_probes(
    folder: Path,
    sets: Mapping[tuple[str, int], ProbeSet],
    info: Mapping[str, Any],
    scales: Mapping[tuple[str, int], NDArray[np.float32]],
) -> None:
    """Write ``probes.safetensors``: weight (C, D) float32; bias, threshold (C,), calibration (C, 2) float64 a layer.

    Where ``scales`` has a layer, scale (D,) float32; of a network, its tensors too, and its form in the header.
    """
    tensors: dict[str, NDArray[Any]] = {}
    for (readout, layer), probes in sets.items():
        values: tuple[NDArray[Any], ...] = (probes.weight, probes.bias, probes.thresholds, probes.calibrations)
        tensors |= {tensor_name(readout, layer, p): v for p, v in zip(_PARTS, values, strict=True)}
        if (readout, layer) in scales:
            tensors[tensor_name(readout, layer, _SCALE)] = scales[readout, layer]
        if probes.network is not None:
            tensors |= network_tensors(probes.network, tensor_name(readout, layer))
    first = next(iter(sets.values()))
    header = {
        "class_names": first.class_names,
        "readouts": list(dict.fromkeys(readout for readout, _ in sets)),
        "layers": sorted({layer for _, layer in sets}),
        "block_index": {str(s.layer): s.block_index for s in sets.values()},
        "kind": first.first.kind,
        "info": dict(info),
        "extra": {tensor_name(*key): {name: p.extra for name, p in s.items()} for key, s in sets.items()},
    }
    networks = {tensor_name(*key): s.network.config for key, s in sets.items() if s.network is not None}
    if networks:
        header["networks"] = networks
    write_atomic(folder / PROBES_NAME, pack(tensors, header))


def network_tensors(network: Network, prefix: str) -> dict[str, NDArray[Any]]:
    """The tensors of a network by the names they have in a file: "{prefix}.network.{name}"."""
    return {f"{prefix}.network.{name}": value for name, value in network.tensors.items()}


def read_network(tensors: Mapping[str, NDArray[Any]], config: Mapping[str, Any], prefix: str, where: object) -> Network:
    """The network that ``network_tensors`` named. Raises ProbeError when it is incomplete."""
    start = f"{prefix}.network."
    own = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
    return checked_network(config, own, str(where))


def load_probes(folder: str | Path) -> TrainedProbes:
    """Read a finished probes folder.

    Raises StageError when it is not one, ProbeError when ``probes.safetensors`` is missing, damaged or not the file
    that the manifest records.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, "train")
    path = folder / PROBES_NAME
    tensors, header = unpack(path)
    _check_recorded(path, manifest)
    try:
        info = header["info"]
        sets = {
            (readout, layer): _probe_set(tensors, header, info, readout, layer)
            for readout in header["readouts"]
            for layer in header["layers"]
        }
        known = {key: tensors.get(tensor_name(*key, _SCALE)) for key in sets}
        scales = {key: scale for key, scale in known.items() if scale is not None}
        return TrainedProbes(manifest, header["class_names"], header["layers"], header["readouts"], sets, info, scales)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ProbeError(f"{path} is incomplete ({error}): run 'strataprobe train' again.") from error


def _check_recorded(path: Path, manifest: Manifest) -> None:
    recorded = manifest.files.get(path.name)
    if recorded is not None and recorded.sha256 != sha256_file(path):
        raise ProbeError(
            f"{path} is not the file its manifest records (sha256 differs): it was changed or damaged; "
            "run 'strataprobe train' again."
        )


def _probe_set(
    tensors: Mapping[str, NDArray[Any]], header: Mapping[str, Any], info: Mapping[str, Any], readout: str, layer: int
) -> ProbeSet:
    weight, bias, threshold, calibration = (tensors[tensor_name(readout, layer, part)] for part in _PARTS)
    names: Sequence[str] = header["class_names"]
    form = header.get("networks", {}).get(tensor_name(readout, layer))
    network = None if form is None else read_network(tensors, form, tensor_name(readout, layer), PROBES_NAME)
    return ProbeSet(
        [
            Probe(
                weight=weight[c],
                bias=float(bias[c]),
                action=name,
                layer=layer,
                block_index=int(header["block_index"][str(layer)]),
                readout=readout,
                prefix=info["prefix"],
                suffix=info["suffix"],
                template=info["template"],
                model=info["model_name"],
                model_revision=info["model_revision"],
                threshold=float(threshold[c]),
                calibration=Calibration(float(calibration[c, 0]), float(calibration[c, 1])),
                kind=header["kind"],
                extra=header["extra"][tensor_name(readout, layer)][name],
                network=network,
                output=c if network is not None else 0,
            )
            for c, name in enumerate(names)
        ]
    )


def write_oof(folder: Path, oof: Oof) -> None:
    """Write ``oof_logits.safetensors``."""
    tensors: dict[str, NDArray[Any]] = {tensor_name(*key): value for key, value in oof.logits.items()}
    tensors |= {"labels": oof.labels, "folds": oof.folds, "groups": oof.groups}
    if oof.targets is not None:
        tensors["targets"] = oof.targets
    readouts = list(dict.fromkeys(readout for readout, _ in oof.logits))
    layers = sorted({layer for _, layer in oof.logits})
    header = {"class_names": oof.class_names, "ids": oof.ids, "readouts": readouts, "layers": layers}
    write_atomic(folder / OOF_NAME, pack(tensors, header))


def load_oof(folder: str | Path) -> Oof:
    """Read the out-of-fold logits of a finished probes folder. Raises StageError and ProbeError as ``load_probes``."""
    folder = Path(folder)
    manifest = read_manifest(folder, "train")
    path = folder / OOF_NAME
    tensors, header = unpack(path)
    _check_recorded(path, manifest)
    try:
        logits = {(r, k): tensors[tensor_name(r, k)] for r in header["readouts"] for k in header["layers"]}
        labels, folds, groups = (tensors[name] for name in ("labels", "folds", "groups"))
        return Oof(logits, labels, folds, groups, header["ids"], header["class_names"], tensors.get("targets"))
    except (KeyError, TypeError) as error:
        raise StageError(f"{path} is incomplete ({error}): run 'strataprobe train' again.") from error
