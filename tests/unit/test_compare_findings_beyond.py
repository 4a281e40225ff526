from __future__ import annotations

from typing import Any

import pytest

from strataprobe.compare.findings_beyond import (
    calibration_findings,
    ensemble_findings,
    fold_findings,
    geometry_findings,
    learning_findings,
    shift_findings,
)


def ensemble(low: float, *, value: float = 0.9, layers: tuple[int, ...] = (3, 5), **more: Any) -> dict[str, Any]:
    return {
        "layers": list(layers), "n_layers": len(layers), "cost_blocks": max(layers), "test_auc": value,
        "minus_best": low + 0.02, "minus_best_low": low, "minus_best_high": low + 0.04,
        "minus_best_p": 0.01 if low > 0 else 0.3,
    } | more  # fmt: skip


def test_an_ensemble_that_is_better_is_named_with_its_cost_and_one_that_is_not_too() -> None:
    single = ensemble(0.0, layers=(3,)) | {"minus_best": None}
    (found,) = ensemble_findings({"ensembles": {"mean": ensemble(0.01), "single": single}}, {})
    assert found["message"].startswith("Several layers are better than one: the mean logit of layers 3, 5 reaches")
    assert "5 blocks in place of 3" in found["message"]
    (found,) = ensemble_findings({"ensembles": {"mean": ensemble(-0.01), "single": single}}, {})
    assert found["message"].startswith("No ensemble is better than the best layer for certain")


def test_the_best_of_several_ensembles_must_be_better_by_more() -> None:
    single = ensemble(0.0, layers=(3,)) | {"minus_best": None}
    methods = {name: ensemble(0.001, minus_best_p=0.02) for name in ("mean", "vote", "stacked", "greedy")}
    (found,) = ensemble_findings({"ensembles": {**methods, "single": single}}, {})
    assert found["message"].startswith("No ensemble is better")
    methods["stacked"] = ensemble(0.01, minus_best_p=0.001)
    (found,) = ensemble_findings({"ensembles": {**methods, "single": single}}, {})
    assert found["message"].startswith("Several layers are better than one: the stacked regression")


def test_ensembles_are_not_praised_where_the_best_layer_is_perfect_or_where_there_are_none() -> None:
    single = ensemble(0.0, value=1.0, layers=(3,)) | {"minus_best": None}
    (found,) = ensemble_findings({"ensembles": {"mean": ensemble(-0.02, value=1.0), "single": single}}, {})
    assert "alone makes no mistake" in found["message"]
    assert ensemble_findings({"ensembles": {}}, {})[0]["level"] == "skipped"


def curve(enough: int | None, **own: Any) -> dict[str, Any]:
    points = [{"n_texts": n, "auc": v} for n, v in ((20, 0.7), (400, 0.89), (980, 0.9))]
    return {"learning_curve": {"points": points, "enough": enough, "own": own}}


def test_a_flat_learning_curve_and_one_that_rises_are_told_apart() -> None:
    (flat,) = learning_findings(curve(400), {})
    assert flat["message"].startswith("From 400 texts on the learning curve is flat")
    (rising,) = learning_findings(curve(None), {})
    assert rising["level"] == "warning"
    assert "More texts would still help" in rising["message"]
    (none,) = learning_findings({"learning_curve": {"points": [], "reason": "there is no best layer"}}, {})
    assert (none["level"], none["message"]) == ("skipped", "There is no learning curve: there is no best layer.")


@pytest.mark.parametrize(
    ("matching", "level", "words"),
    [(10, "warning", "no more than 10 labelled"), (300, "ok", "about 300 labelled"), (None, "ok", "more than 300 lab")],
)
def test_what_the_training_texts_are_worth_in_texts_of_another_kind_is_said(
    matching: int | None, level: str, words: str
) -> None:
    own = {
        "points": [{"n_texts": 10, "auc": 0.6}, {"n_texts": 300, "auc": 0.8}],
        "generated_auc": 0.75,
        "matching_n": matching,
    }
    found = learning_findings(curve(400, reviews=own, few={"points": []}), {})
    assert len(found) == 2
    assert found[1]["level"] == level
    assert words in found[1]["message"]


def geometry(transfer: list[list[float]], passing: list[int]) -> dict[str, Any]:
    n = len(transfer)
    return {
        "best_layer": 2, "primary_readout": "last", "choices": {"last": {"passing_layers": passing}},
        "geometry": {"layers": list(range(1, n + 1)), "cosine": [[0.8] * n] * n, "transfer_auc": transfer},
    }  # fmt: skip


def test_the_layers_that_share_a_direction_are_named_and_chance_is_not_one_of_them() -> None:
    shared = [[0.5, 0.5, 0.5, 0.5], [0.5, 0.9, 0.88, 0.6], [0.5, 0.9, 0.9, 0.9], [0.5, 0.5, 0.5, 0.9]]
    (found,) = geometry_findings(geometry(shared, [2, 3, 4]), {})
    assert found["message"].startswith("One direction serves layers 2 to 3: the probe of layer 2 ranks the test texts")
    assert ".880 or more (cosine .800 or more)" in found["message"]
    apart = [[0.9, 0.5, 0.5], [0.5, 0.9, 0.5], [0.5, 0.5, 0.9]]
    (found,) = geometry_findings(geometry(apart, [1, 2, 3]), {})
    assert found["message"].startswith("The direction of layer 2 is its own")


def shifted(**more: Any) -> dict[str, Any]:
    row = {"name": "reviews", "auc": 0.9, "ece": 0.03, "accuracy": 0.85, "best_layer": 5, "best_auc": 0.92} | more
    best = {"layer": 4, "readout": "last", "ece": 0.02}
    document = {"best_layer": 4, "primary_readout": "last", "layers": [best]}
    return document | {"shift": {"layer": 4, "rows": [{"name": "test", "auc": 0.9}, row]}}


def test_text_that_another_layer_or_a_calibration_suits_better_is_a_warning_and_text_that_holds_is_not() -> None:
    (holds,) = shift_findings(shifted(), {})
    assert holds["level"] == "ok"
    (better,) = shift_findings(shifted(auc=0.7), {})
    assert "layer 5 would reach AUC .920" in better["message"]
    (off,) = shift_findings(shifted(ece=0.2), {})
    assert "calibrate on such text" in off["message"]
    assert {better["level"], off["level"]} == {"warning"}


def calibrated(ece: float, n: int) -> dict[str, Any]:
    classes = {"positive": {"ece": ece, "bins": [{}] * 10}}
    counts = {"n_texts": {"test": n, "val": n}, "test_texts_by_class": {"negative": n // 2, "positive": n // 2}}
    return {"calibration": {"layer": 4, "classes": classes}} | counts


def test_a_calibration_error_is_held_against_chance() -> None:
    assert calibration_findings(calibrated(0.05, 1000), {})[0]["level"] == "ok"
    assert calibration_findings(calibrated(0.15, 1000), {})[0]["level"] == "warning"
    assert "too few" not in calibration_findings(calibrated(0.15, 1000), {})[0]["message"]
    (unsure,) = calibration_findings(calibrated(0.15, 100), {})
    assert "too few to judge" in unsure["message"]
    assert unsure["level"] == "warning"


def test_a_curve_without_folds_is_a_warning_and_one_with_folds_says_nothing() -> None:
    assert fold_findings({"n_folds": 5}, {}) == []
    (found,) = fold_findings({"n_folds": 0, "n_texts": {"val": 210}}, {})
    assert "210 validation texts" in found["message"]
