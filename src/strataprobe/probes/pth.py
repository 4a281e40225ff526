"""Probe files other tools read: one ``.pth`` a class, and reading those that brije's pipeline wrote.

Never unpickled: always opened with ``weights_only=True``.
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch

from strataprobe.errors import ProbeError
from strataprobe.manifest import write_atomic
from strataprobe.probes.calibration import Calibration
from strataprobe.probes.network_pth import MODEL_CLASS as NETWORK_CLASS
from strataprobe.probes.network_pth import NETWORK_NAME, network_bytes, read_network_probes
from strataprobe.probes.probe import BINARY, REGRESSION, Probe, ProbeSet
from strataprobe.progress import note

MODEL_CLASS = "BinaryLinearProbe"
COGNITIVE_SUFFIX = "\n\nThe cognitive action being demonstrated here is"
SENTIMENT_SUFFIX = "\n\nThe sentiment of this section is"
# A file name holds at most 255 bytes, with ".tmp" and the like while it is written.
_MAX_NAME_BYTES = 120
_REGRESSION_CLASS = "SentimentRegressionProbe"
_NUMBER = re.compile(r"layer_(\d+)(?:_|$)")
_OWN_KEYS = (
    "action",
    "layer",
    "block_index",
    "readout",
    "prefix",
    "suffix",
    "template",
    "model",
    "model_revision",
    "threshold",
    "calibration",
    "kind",
)


def pth_name(class_name: str) -> str:
    """File name of one class's probe; characters that no file name can hold are percent-encoded.

    A long name is cut and ends in the first 12 digits of the sha256 of the class name, which is whole in the metadata.
    """
    encoded = quote(class_name, safe=" +,=@()")
    if len(encoded) > _MAX_NAME_BYTES:
        digest = hashlib.sha256(class_name.encode("utf-8")).hexdigest()[:12]
        start = re.sub(r"%.?$", "", encoded[: _MAX_NAME_BYTES - len(digest) - 1])  # no code cut in two
        encoded = f"{start}-{digest}"
    return f"probe_{encoded}.pth"


def pth_bytes(probe: Probe) -> bytes:
    """The .pth file of a probe; the same probe gives the same bytes, under any file name."""
    if probe.network is not None:
        return network_bytes([probe])
    metadata: dict[str, Any] = {
        "action": probe.action,
        "layer": int(probe.layer),
        "block_index": int(probe.block_index),
        "readout": probe.readout,
        "prefix": probe.prefix,
        "suffix": probe.suffix,
        "template": probe.template,
        "model": probe.model,
        "model_revision": probe.model_revision,
        "threshold": float(probe.threshold),
        "calibration": {"slope": float(probe.calibration.slope), "intercept": float(probe.calibration.intercept)},
        "kind": probe.kind,
    }
    content = {
        "model_state_dict": {
            "linear.weight": torch.from_numpy(np.array(probe.weight, dtype=np.float32))[None, :],
            "linear.bias": torch.tensor([probe.bias], dtype=torch.float32),
        },
        "model_class": MODEL_CLASS,
        "model_config": {"input_dim": probe.width},
        "metadata": metadata | {k: v for k, v in probe.extra.items() if k not in metadata},
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def save_pth(probe: Probe, path: Path) -> Path:
    """Write a probe's .pth file, aside first. Raises StageError when it cannot be written."""
    write_atomic(path, pth_bytes(probe))
    return path


def save_folder(folder: Path, probes: ProbeSet) -> None:
    """Write the .pth files of one layer: one a class, or for a network one for all its classes."""
    if probes.network is not None:
        write_atomic(folder / NETWORK_NAME, network_bytes(list(probes.values())))
        return
    for name, probe in probes.items():
        save_pth(probe, folder / pth_name(name))


def load_pth(path: str | Path, *, layer: int | None = None, numbering: str | None = None) -> Probe:
    """Read one .pth probe, ours or brije's (bfloat16, saved from a CUDA device; no ``block_index`` in its metadata).

    For ours, ``layer`` is checked against the file. For brije's the block index is ``layer``, or else the number in the
    folder's or the file's name; its layer here is one more. ``numbering`` ("strataprobe" or "brije") says what the
    number means where that guess is wrong. Raises ProbeError when the file is missing, damaged, no linear probe or network
    of ours, of another layer, or holds several classes.
    """
    found = _load(Path(path), layer, numbering)
    if len(found) > 1:
        names = ", ".join(p.action for p in found)
        raise ProbeError(f"{path} holds the network of {len(found)} classes ({names}): open its folder instead.")
    return found[0]


def _load(path: Path, layer: int | None, numbering: str | None) -> list[Probe]:
    """The probe of a file, or all those of a network."""
    content = _opened(path)
    if content.get("model_class") == NETWORK_CLASS:
        return read_network_probes(content, path, layer if layer is None or numbering != "brije" else layer + 1)
    weight, bias = _linear(content, path)
    metadata = content.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    if "block_index" in metadata:
        return [_ours(path, weight, bias, metadata, layer, numbering)]
    return [_brijes(path, weight, bias, metadata, str(content.get("model_class", "")), layer, numbering)]


def _opened(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ProbeError(f"{path} is not a file: give a .pth probe file.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ProbeError(
            f"{path} cannot be read as a probe ({type(error).__name__}): it is damaged, cut short, or "
            "holds more than weights; train or copy it again."
        ) from error
    if not isinstance(content, dict):
        raise ProbeError(f"{path} holds no probe: a dictionary with 'model_state_dict' was expected.")
    return content


def _linear(content: dict[str, Any], path: Path) -> tuple[np.ndarray, float]:
    state = content.get("model_state_dict")
    parts = [state.get(f"linear.{n}") for n in ("weight", "bias")] if isinstance(state, dict) else []
    tensors = [t for t in parts if isinstance(t, torch.Tensor) and t.is_floating_point()]
    if len(tensors) != 2:
        raise ProbeError(f"{path} holds no linear probe: 'linear.weight' and 'linear.bias' were expected.")
    weight, bias = (t.to(torch.float32).numpy() for t in tensors)
    if weight.ndim != 2 or weight.shape[0] != 1 or bias.shape != (1,):
        raise ProbeError(
            f"{path} has a weight of shape {weight.shape} and a bias of shape {bias.shape}: (1, D) and "
            "(1,) were expected."
        )
    if not np.isfinite(weight).all() or not np.isfinite(bias).all():
        raise ProbeError(f"{path} holds values that are not finite: train or copy it again.")
    return weight[0].copy(), float(bias[0])


def _ours(
    path: Path, weight: np.ndarray, bias: float, metadata: dict[str, Any], layer: int | None, numbering: str | None
) -> Probe:
    try:
        calibration = Calibration(float(metadata["calibration"]["slope"]), float(metadata["calibration"]["intercept"]))
        probe = Probe(
            weight=weight,
            bias=bias,
            action=str(metadata["action"]),
            layer=int(metadata["layer"]),
            block_index=int(metadata["block_index"]),
            readout=str(metadata["readout"]),
            prefix=str(metadata["prefix"]),
            suffix=str(metadata["suffix"]),
            template=str(metadata["template"]),
            model=str(metadata["model"]),
            model_revision=str(metadata.get("model_revision", "")),
            threshold=float(metadata["threshold"]),
            calibration=calibration,
            kind=str(metadata.get("kind", BINARY)),
            extra={k: v for k, v in metadata.items() if k not in _OWN_KEYS},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ProbeError(f"{path} has incomplete metadata ({error}): train or copy the probe again.") from error
    asked = layer if layer is None or numbering != "brije" else layer + 1
    if asked is not None and asked != probe.layer:
        raise ProbeError(
            f"{path} is a probe of layer {probe.layer} (block index {probe.block_index}), not of layer "
            f"{asked}: give the folder of that layer."
        )
    return probe


def _brijes(
    path: Path,
    weight: np.ndarray,
    bias: float,
    metadata: dict[str, Any],
    model_class: str,
    layer: int | None,
    numbering: str | None,
) -> Probe:
    named = _NUMBER.search(path.stem) or _NUMBER.fullmatch(path.resolve().parent.name)
    ours = numbering == "strataprobe"
    if layer is None and named is None:
        raise ProbeError(
            f"{path} does not say which layer it reads: give layer=, its number in the numbering it was trained with."
        )
    block_index = (int(named[1]) if named else 0) if layer is None else layer
    block_index -= ours
    if block_index < 0:
        raise ProbeError(f"{path}: layer {block_index + 1} is no block's output; layers count from 1.")
    if named and layer is not None and int(named[1]) not in (layer, block_index):
        raise ProbeError(
            f"{path} is of their layer {named[1]} by its name, not of layer {layer}: give the folder of that layer."
        )
    plain = {k: v for k, v in metadata.items() if isinstance(v, (str, int, float)) and k != "action"}
    regression = model_class == _REGRESSION_CLASS
    return Probe(
        weight=weight,
        bias=bias,
        action=str(metadata.get("action") or ("sentiment" if regression else path.stem.removeprefix("probe_"))),
        layer=block_index + 1,
        block_index=block_index,
        readout="last",
        suffix=SENTIMENT_SUFFIX if regression else COGNITIVE_SUFFIX,
        kind=REGRESSION if regression else BINARY,
        extra={"origin": "brije"} | plain,
    )


def load_probe_folder(path: str | Path, layer: int | None = None, numbering: str | None = None) -> ProbeSet:
    """Read the .pth probes of one layer's folder, such as ``probes/layer_26``, ours or brije's; see ``load_pth``.

    Where file names carry layer numbers and ``layer`` is given, only files of that number are read. A line on stderr
    says how brije's number is understood. Raises ProbeError when there are none, one cannot be read, or they do not
    agree on layer, readout, width, prefix, suffix and template.
    """
    path = Path(path)
    if not path.is_dir():
        raise ProbeError(f"{path} is not a folder of probes: give one such as probes/layer_26.")
    files = sorted(path.glob("probe_*.pth")) or sorted(path.glob("*.pth"))
    if layer is not None:
        numbers = {f: _NUMBER.search(f.stem) for f in files}
        files = [f for f in files if (n := numbers[f]) is None or int(n[1]) == layer - (numbering == "strataprobe")]
    if not files:
        which = "" if layer is None else f" of layer {layer}"
        raise ProbeError(f"{path} holds no .pth probes{which}: give a folder such as probes/layer_26.")
    probes = ProbeSet([probe for file in files for probe in _load(file, layer, numbering)])
    if probes.first.extra.get("origin") == "brije":
        note(
            f"{path}: brije's probes; their layer {probes.block_index} is block index {probes.block_index}, layer "
            f"{probes.layer} here, read at the last token of text + {probes.first.suffix!r}."
        )
    return probes
