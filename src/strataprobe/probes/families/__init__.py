"""Probe families: each a fitter that turns activations and 0/1 columns into linear probes.

A family is a class with a ``name`` and three methods (see ``Fitter``); ``get_family`` finds it by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from strataprobe.errors import OptionError
from strataprobe.probes.network import Network

_FAMILIES = {
    "logistic": ("strataprobe.probes.families.logistic", "Logistic"),
    "mass-mean": ("strataprobe.probes.families.mass_mean", "MassMean"),
    "mass-mean-iid": ("strataprobe.probes.families.mass_mean", "MassMeanIid"),
    "multihead": ("strataprobe.probes.families.multihead", "MultiHead"),
    "ridge": ("strataprobe.probes.families.ridge", "Ridge"),
}


@dataclass(frozen=True, eq=False)
class LinearFit:
    """K linear probes on raw activations: ``weight`` (K, D) float32, ``bias`` (K,) float64, rounded to float32.

    ``settings`` holds, for each column, what was chosen and how the fit ended (for logistic ``C`` and ``converged``);
    ``option_merit`` (n_options, K) says how well every option that was tried did on held-out rows, the higher the better
    and ties to the first, nan where it cannot be told; ``held_out_logits`` (n_held_out, K) are those of the held-out
    rows, from the fit that chose without them.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float64]
    settings: list[dict[str, Any]]
    option_merit: NDArray[np.float64]
    held_out_logits: NDArray[np.float64]

    def logits(self, X: Any) -> NDArray[np.float64]:
        """Logits (n, K) of raw activations X (n, D)."""
        return np.asarray(X, dtype=np.float64) @ self.weight.astype(np.float64).T + self.bias


@dataclass(frozen=True, eq=False)
class NetworkFit:
    """K classes that one network tells, where ``LinearFit`` has a weight a class; the rest is as there.

    An option is how many epochs to train, so ``option_merit`` is (n_epochs, K).
    """

    network: Network
    settings: list[dict[str, Any]]
    option_merit: NDArray[np.float64]
    held_out_logits: NDArray[np.float64]

    @property
    def weight(self) -> NDArray[np.float32]:
        """(K, D) zeros: there is no direction."""
        return np.zeros((len(self.settings), self.network.width), dtype=np.float32)

    @property
    def bias(self) -> NDArray[np.float64]:
        """(K,) zeros."""
        return np.zeros(len(self.settings))

    def logits(self, X: Any) -> NDArray[np.float64]:
        """Logits (n, K) of raw activations X (n, D)."""
        return self.network.logits(X)


Fit = LinearFit | NetworkFit


class Fitter(Protocol):
    """What every family offers. X (n, D) raw activations; Y (n, K) float64 in {0, 1}; one probe a column.

    ``options`` holds, as JSON values, everything that decides its fits but the ``device`` they are made on; stage
    manifests record both.
    """

    name: str
    options: dict[str, Any]
    device: str

    def fit(self, X: Any, Y: Any, X_val: Any, Y_val: Any) -> Fit:
        """Fit every option on (X, Y), choose one for each column on (X_val, Y_val), and keep that fit."""
        ...

    def fit_inside(self, X: Any, Y: Any, held_out: Any) -> Fit:
        """Choose each column's option with the rows ``held_out`` (n,) bool set aside, then fit it on all rows."""
        ...

    def refit(self, X: Any, Y: Any, option_merit: Any) -> Fit:
        """Fit all rows with the options that ``option_merit`` (n_options, K) speaks for."""
        ...


def known_families() -> list[str]:
    """Names of the families, sorted."""
    return sorted(_FAMILIES)


def get_family(
    name: str, options: Mapping[str, Any] | None = None, *, device: str = "cpu", seed: int | None = None
) -> Fitter:
    """The family called ``name`` with its options, working on ``device`` where it can.

    ``seed`` is that of a family which draws anything, unless its options have one.

    Raises OptionError when there is none of that name, and for an option it does not have.
    """
    if name not in _FAMILIES:
        raise OptionError(f"no probe is called {name!r}; there are: {', '.join(known_families())}.")
    module, kind = _FAMILIES[name]
    family = getattr(import_module(module), kind)
    parameters = signature(family).parameters
    known = [p for p in parameters if p != "device"]
    unknown = sorted(set(options or {}) - set(known))
    if unknown:
        raise OptionError(f"the probe {name!r} has no option {unknown[0]!r}; it has: {', '.join(known) or 'none'}.")
    own: dict[str, Any] = {"device": device} if "device" in parameters else {}
    if "seed" in parameters and seed is not None:
        own["seed"] = seed
    fitter: Fitter = family(**{**own, **(options or {})})
    return fitter
