"""The option names of brije's training, and which options of ours each family of probes has a use for.

A setting that means nothing here is answered in a sentence, so that nobody waits for an effect it cannot have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from strataprobe.errors import OptionError

PROBE_TYPES = {
    "linear": "logistic",
    "binary": "logistic",
    "logistic": "logistic",
    "multihead": "multihead",
    "multi_head": "multihead",
    "regression": "ridge",
}
# Settings of a network that is trained step by step.
STEPWISE = ("epochs", "learning_rate", "weight_decay", "batch_size", "early_stopping_patience")
_ANSWERED = {
    "num_workers": "num_workers is ignored: layers are read whole and fitted side by side, a thread a core.",
    "pin_activations_to_gpu": "pin_activations_to_gpu is ignored: a layer's activations are moved once to --device.",
}
_NO_STEPS = {
    "logistic": "the solver is exact",
    "joint": "the solver is exact",
    "ridge": "the solution is exact",
    "mass-mean": "the class means are all it takes",
    "mass-mean-iid": "the solution is exact",
}


def from_origin(section: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The [train] section of a configuration file under our names, and a sentence for each setting that means nothing.

    Keys that are not brije's stay as they are. Raises OptionError for an unknown ``probe_type``, and for one that
    contradicts ``probe``.
    """
    found, answers = dict(section), []
    if "probe_type" in found:
        theirs = str(found.pop("probe_type"))
        probe = PROBE_TYPES.get(theirs.lower().replace("-", "_"))
        if probe is None:
            raise OptionError(f"probe_type {theirs!r} is not known; there are: {', '.join(sorted(PROBE_TYPES))}.")
        if found.setdefault("probe", probe) != probe:
            raise OptionError(
                f"probe_type {theirs!r} is the probe {probe!r}, not {found['probe']!r}: give one of them."
            )
        if theirs != probe:
            answers.append(f"probe: {probe} (probe_type {theirs})")
    answers += [answer for name, answer in _ANSWERED.items() if found.pop(name, None) is not None]
    return found, answers


def family_options(
    probe: str,
    *,
    Cs: list[float] | None = None,
    class_weight: str = "none",
    target: str | None = None,
    stepwise: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], str]:
    """Options for ``get_family`` from what was given (None: not given), and a sentence on settings without use, or "".

    ``stepwise`` has those of ``STEPWISE``. An option that only another family has is left to ``get_family`` to refuse.
    """
    options: dict[str, Any] = {}
    if Cs is not None:
        options["Cs"] = Cs
    if class_weight != "none":
        options["class_weight"] = class_weight
    if target is not None:
        options["target"] = target
    given = {name: value for name, value in (stepwise or {}).items() if value is not None}
    if probe == "multihead":
        return {**options, **given}, ""
    if not given:
        return options, ""
    reason = _NO_STEPS.get(probe, "there are no training steps")
    return options, f"{probe}: {reason}: no {', '.join(sorted(given))} needed; ignored."
