"""brije's option names in [train], and settings that a family has no use for."""

from __future__ import annotations

from typing import Any

import pytest

from strataprobe.errors import OptionError
from strataprobe.probes.families import get_family, known_families
from strataprobe.probes.origin_options import PROBE_TYPES, STEPWISE, family_options, from_origin

EVERY_STEP = dict(zip(STEPWISE, (5, 1e-3, 1e-2, 16, 3), strict=True))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("linear", "logistic"), ("binary", "logistic"), ("multi_head", "multihead"), ("Multi-Head", "multihead")],
)
def test_a_probe_type_is_one_of_our_families(theirs: str, ours: str) -> None:
    found, answers = from_origin({"probe_type": theirs, "seed": 3})
    assert found == {"probe": ours, "seed": 3}
    assert answers == [f"probe: {ours} (probe_type {theirs})"]


def test_every_probe_type_names_a_family_that_exists() -> None:
    assert set(PROBE_TYPES.values()) <= set(known_families())


def test_our_own_names_pass_unchanged_and_unanswered() -> None:
    section = {"probe": "ridge", "folds": 0, "batch_size": 8}
    assert from_origin(section) == (section, [])


def test_settings_without_use_are_taken_out_and_answered() -> None:
    found, answers = from_origin({"num_workers": 4, "pin_activations_to_gpu": True, "epochs": 3})
    assert found == {"epochs": 3}
    assert [a.split()[0] for a in answers] == ["num_workers", "pin_activations_to_gpu"]
    assert all(a.endswith(".") and "\n" not in a for a in answers)


@pytest.mark.parametrize("section", [{"probe_type": "forest"}, {"probe_type": "linear", "probe": "ridge"}])
def test_an_unknown_or_contradicted_probe_type_is_refused(section: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="probe_type"):
        from_origin(section)


def test_a_network_takes_every_step_setting() -> None:
    options, answer = family_options("multihead", stepwise=EVERY_STEP)
    assert answer == ""
    fitter = get_family("multihead", options)
    assert fitter.options == {**EVERY_STEP, "class_weight": "none", "seed": 0}


@pytest.mark.parametrize("probe", [name for name in known_families() if name != "multihead"] + ["joint"])
def test_every_other_family_answers_them_in_one_sentence(probe: str) -> None:
    options, answer = family_options(probe, stepwise=EVERY_STEP)
    assert options == {}
    assert answer.startswith(f"{probe}: ")
    assert answer.endswith("ignored.")
    assert all(name in answer for name in STEPWISE)
    assert family_options(probe, stepwise=dict.fromkeys(STEPWISE)) == ({}, "")


def test_an_option_of_another_family_is_refused() -> None:
    options, _ = family_options("mass-mean", Cs=[0.1])
    with pytest.raises(OptionError, match="has no option 'Cs'"):
        get_family("mass-mean", options)
    assert get_family("logistic", family_options("logistic", Cs=[0.1], class_weight="balanced")[0]).options == {
        "Cs": [0.1],
        "class_weight": "balanced",
    }
