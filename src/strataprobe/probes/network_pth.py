"""Networks as ``.pth`` files: all classes of a layer in one file, since they share nearly all weights."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from strataprobe.errors import ProbeError
from strataprobe.probes.calibration import Calibration
from strataprobe.probes.network import checked_network
from strataprobe.probes.probe import Probe

MODEL_CLASS = "MultiHeadProbe"
NETWORK_NAME = "multihead_probe.pth"
_PLACE = ("layer", "block_index", "readout", "prefix", "suffix", "template", "model", "model_revision", "kind")


def network_bytes(probes: Sequence[Probe]) -> bytes:
    """The .pth file of probes of one network; the same probes give the same bytes.

    ``metadata`` has what all share, and in ``classes`` for each its action, output (column), threshold, calibration, and
    further values.
    """
    first = probes[0]
    assert first.network is not None
    classes = [
        {
            **p.extra,
            "action": p.action,
            "output": int(p.output),
            "threshold": float(p.threshold),
            "calibration": {"slope": float(p.calibration.slope), "intercept": float(p.calibration.intercept)},
        }
        for p in probes
    ]
    content = {
        "model_state_dict": {name: torch.from_numpy(t.copy()) for name, t in sorted(first.network.tensors.items())},
        "model_class": MODEL_CLASS,
        "model_config": dict(first.network.config),
        "metadata": {name: getattr(first, name) for name in _PLACE} | {"classes": classes},
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def read_network_probes(content: Mapping[str, Any], path: Path, layer: int | None) -> list[Probe]:
    """The probes of a file that ``network_bytes`` wrote. Raises ProbeError when it is damaged or of another layer."""
    state, config, metadata = (content.get(k) for k in ("model_state_dict", "model_config", "metadata"))
    if not isinstance(state, dict) or not isinstance(config, dict) or not isinstance(metadata, dict):
        raise ProbeError(f"{path} holds no whole network: train or copy it again.")
    tensors = {name: t.to(torch.float32).numpy() for name, t in state.items() if isinstance(t, torch.Tensor)}
    network = checked_network(config, tensors, str(path))
    own = ("action", "output", "threshold", "calibration")
    try:
        place = {name: metadata[name] for name in _PLACE}
        probes = [
            Probe(
                weight=torch.zeros(network.width).numpy(),
                bias=0.0,
                action=str(entry["action"]),
                threshold=float(entry["threshold"]),
                calibration=Calibration(float(entry["calibration"]["slope"]), float(entry["calibration"]["intercept"])),
                extra={name: value for name, value in entry.items() if name not in own},
                network=network,
                output=int(entry["output"]),
                **place,
            )
            for entry in metadata["classes"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ProbeError(f"{path} has incomplete metadata ({error}): train or copy the probe again.") from error
    if not probes or any(not 0 <= p.output < network.n_classes for p in probes):
        raise ProbeError(f"{path} names classes that its network does not have: train or copy the probe again.")
    if layer is not None and layer != probes[0].layer:
        raise ProbeError(
            f"{path} is a probe of layer {probes[0].layer} (block index {probes[0].block_index}), not of layer "
            f"{layer}: give the folder of that layer."
        )
    return probes
