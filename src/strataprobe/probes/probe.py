"""A probe: weights, bias, and all that is needed to use them rightly; and the probes of one layer together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strataprobe.errors import ProbeError
from strataprobe.probes.calibration import IDENTITY, Calibration, sigmoid
from strataprobe.probes.network import Network

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

BINARY = "logistic"
REGRESSION = "regression"


def raw_activations(X: Any, width: int) -> Float64:
    """Activations (n, D) as float64; one row (D,) becomes (1, D). Raises ProbeError when D is not ``width``."""
    array = X.detach().float().cpu().numpy() if hasattr(X, "detach") else X
    rows = np.atleast_2d(np.asarray(array, dtype=np.float64))
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ProbeError(
            f"activations of shape {tuple(rows.shape)} do not fit a probe of width {width}: it was "
            "trained on another model."
        )
    return rows


@dataclass(frozen=True, eq=False)
class Probe:
    """One class on one layer: logit = weight . x + bias on raw activations x (D,).

    ``weight`` (D,) float32; ``layer`` is 1-based, ``block_index`` 0-based; ``threshold`` is a probability;
    ``calibration`` turns the logit into a probability; ``extra`` holds further plain values (C, cv_auc, ...).
    ``kind`` is "regression" for probes whose output is a value, not a logit. A probe that is not linear has a ``network``,
    whose column ``output`` is its logit; its weight and bias are zeros and mean nothing.
    """

    weight: Float32
    bias: float
    action: str
    layer: int
    block_index: int
    readout: str
    prefix: str = ""
    suffix: str = ""
    template: str = "none"
    model: str = ""
    model_revision: str = ""
    threshold: float = 0.5
    calibration: Calibration = IDENTITY
    kind: str = BINARY
    extra: dict[str, Any] = field(default_factory=dict)
    network: Network | None = None
    output: int = 0

    @property
    def width(self) -> int:
        """D, the width of the activations."""
        return int(self.weight.shape[0])

    @property
    def fitted_calibration(self) -> Calibration | None:
        """The calibration; None where it is no fit but stands in for one."""
        return None if self.extra.get("calibration_fallback") else self.calibration

    @property
    def direction(self) -> Float32:
        """Unit vector (D,) float32 along the weight; zeros where the weight is zero.

        Raises ProbeError for a probe that is not linear.
        """
        if self.network is not None:
            raise ProbeError(
                f"the probe {self.action!r} is a network and has no direction: train logistic probes for one."
            )
        norm = float(np.linalg.norm(self.weight.astype(np.float64)))
        return (self.weight / norm if norm > 0 else np.zeros_like(self.weight)).astype(np.float32)

    def logits(self, X: Any) -> Float64:
        """Logits (n,) float64 of raw activations X (n, D). Raises ProbeError for another width."""
        rows = raw_activations(X, self.width)
        if self.network is not None:
            return self.network.logits(rows)[:, self.output]
        return rows @ self.weight.astype(np.float64) + self.bias

    def probabilities(self, X: Any) -> Float64:
        """Calibrated probabilities (n,) float64. Raises ProbeError for another width, and for a regression probe."""
        if self.kind == REGRESSION:
            raise ProbeError(f"the probe {self.action!r} gives a value, not a probability: read its logits instead.")
        return sigmoid(self.calibration.slope * self.logits(X) + self.calibration.intercept)

    def mirrored(self, action: str, extra: Mapping[str, Any] | None = None) -> Probe:
        """The probe of the opposite class: weight, bias and calibration intercept negated, threshold 1 - t.

        Raises ProbeError for a network of one class or of more than two.
        """
        if self.network is not None and not self.network.config["mirrored"]:
            raise ProbeError(f"the probe {self.action!r} is a network that has no opposite class: read its own logits.")
        return replace(
            self,
            weight=-self.weight,
            bias=-self.bias,
            action=action,
            threshold=1.0 - self.threshold,
            calibration=self.calibration.mirrored(),
            extra=dict(self.extra if extra is None else extra),
            output=1 - self.output if self.network is not None else 0,
        )

    def save(self, path: str | Path) -> Path:
        """Write the probe as a .pth file that opens with ``torch.load(path, weights_only=True)``."""
        from strataprobe.probes.pth import save_pth

        return save_pth(self, Path(path))

    def __repr__(self) -> str:
        return f"Probe({self.action!r}, layer {self.layer}, {self.readout}, width {self.width})"


class ProbeSet(Mapping[str, Probe]):
    """The probes of one layer and readout, by class name in sorted order.

    Raises ProbeError when the probes do not agree on layer, readout, width, prefix, suffix or template.
    """

    def __init__(self, probes: Sequence[Probe]) -> None:
        if not probes:
            raise ProbeError("a probe set needs at least one probe.")
        ordered = sorted(probes, key=lambda p: p.action)
        for name in ("layer", "block_index", "readout", "width", "prefix", "suffix", "template", "model", "kind"):
            values = {getattr(p, name) for p in ordered}
            if len(values) > 1:
                listed = " and ".join(repr(v) for v in sorted(values)[:2])
                raise ProbeError(
                    f"probes that are used together must have one {name.replace('_', ' ')}; these have {listed}."
                )
        self.network = _one_network(ordered)
        names = [p.action for p in ordered]
        doubled = sorted({n for n in names if names.count(n) > 1})
        if doubled:
            raise ProbeError(f"two probes are called {doubled[0]!r}: a probe set has one for each class.")
        self._probes = dict(zip(names, ordered, strict=True))
        self.class_names = names
        self.first = ordered[0]
        # zeros where there is a network
        self.weight: Float32 = np.stack([p.weight for p in ordered])
        self.bias: Float64 = np.array([p.bias for p in ordered], dtype=np.float64)
        self.thresholds: Float64 = np.array([p.threshold for p in ordered], dtype=np.float64)
        self.calibrations: Float64 = np.array([tuple(p.calibration) for p in ordered], dtype=np.float64)

    @property
    def layer(self) -> int:
        """1-based layer."""
        return self.first.layer

    @property
    def block_index(self) -> int:
        """0-based index of the block whose output is read."""
        return self.first.block_index

    @property
    def readout(self) -> str:
        """Which position's activation the probes read."""
        return self.first.readout

    @property
    def width(self) -> int:
        """D, the width of the activations."""
        return self.first.width

    def logits(self, X: Any) -> Float64:
        """Logits (n, C) float64 of raw activations X (n, D). Raises ProbeError for another width."""
        rows = raw_activations(X, self.width)
        if self.network is not None:
            return self.network.logits(rows)[:, [p.output for p in self._probes.values()]]
        return rows @ self.weight.astype(np.float64).T + self.bias

    def probabilities(self, X: Any) -> Float64:
        """Calibrated probabilities (n, C) float64. Raises ProbeError for another width, and for regression probes."""
        if self.first.kind == REGRESSION:
            raise ProbeError("regression probes give values, not probabilities: read their logits instead.")
        return self.calibrated(self.logits(X))

    def calibrated(self, logits: Any) -> Float64:
        """Probabilities (n, C) of logits (n, C) of this set."""
        return sigmoid(np.asarray(logits, dtype=np.float64) * self.calibrations[:, 0] + self.calibrations[:, 1])

    def __getitem__(self, name: str) -> Probe:
        return self._probes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._probes)

    def __len__(self) -> int:
        return len(self._probes)

    def __repr__(self) -> str:
        return f"ProbeSet(layer {self.layer}, {self.readout}, {', '.join(self.class_names)})"


def _one_network(probes: Sequence[Probe]) -> Network | None:
    """The network that all probes share, None where they are linear. Raises ProbeError for several, or for some of each."""
    networks = {id(p.network): p.network for p in probes}
    first = probes[0].network
    if len(networks) > 1 and (None in networks.values() or len({n.digest() for n in networks.values() if n}) > 1):
        raise ProbeError("probes that are used together must be of one network, or all linear; these are not.")
    return first
