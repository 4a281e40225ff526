"""Train, compare and use probes on every layer of a language model.

The names below are loaded when they are first used, so that ``import strataprobe`` and ``strataprobe --help`` stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PLACES = {
    "capture": "strataprobe.capture.memory",
    "fit": "strataprobe.probes.fit",
    "evaluate": "strataprobe.predict.evaluate",
    "load_recipe": "strataprobe.recipe",
    "read_dataset": "strataprobe.dataset",
    "predict_together": "strataprobe.predict.inference",
    "Activations": "strataprobe.store",
    "MultiProbeInference": "strataprobe.predict.inference",
    "Probe": "strataprobe.probes.probe",
    "ProbeSet": "strataprobe.probes.probe",
    "StrataprobeError": "strataprobe.errors",
    "UniversalMultiLayerInference": "strataprobe.predict.inference",
}

__all__ = [
    "Activations",
    "MultiProbeInference",
    "Probe",
    "ProbeSet",
    "StrataprobeError",
    "UniversalMultiLayerInference",
    "__version__",
    "capture",
    "evaluate",
    "fit",
    "load_recipe",
    "predict_together",
    "read_dataset",
]

if TYPE_CHECKING:
    from strataprobe.capture.memory import capture
    from strataprobe.dataset import read_dataset
    from strataprobe.errors import StrataprobeError
    from strataprobe.predict.evaluate import evaluate
    from strataprobe.predict.inference import MultiProbeInference, UniversalMultiLayerInference, predict_together
    from strataprobe.probes.fit import fit
    from strataprobe.probes.probe import Probe, ProbeSet
    from strataprobe.recipe import load_recipe
    from strataprobe.store import Activations


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'strataprobe' has no attribute {name!r}")
    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
