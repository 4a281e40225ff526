"""What a comparison found, in words: each finding has a permanent code, a level and a sentence that says what to do.

| code | says |
| --- | --- |
| C001 | which layer is best, or why none is |
| C002 | which layers cannot be told apart from it |
| C003 | whether the texts can rank the layers at all |
| C004 | whether a baseline does as well as the best layer |
| C005 | whether probes trained on shuffled labels are above chance |
| C006 | whether the test set is large enough |
| C007 | whether every probe reached its optimum |
| C008 | which baselines were skipped, and why |
| C009 | whether the test rows confirm the cross-validated AUC |
| C010 | how the best layer does on text from elsewhere, and which layers were captured without it |
| C011 | whether groups of related texts stayed in one split |
| C012 | whether several layers together are better than the best one, and at what cost |
| C013 | whether more texts would help, and what the training texts are worth in labelled texts of another kind |
| C014 | over which layers one direction serves |
| C015 | what text from elsewhere does to the choice of the layer and to the probabilities |
| C016 | whether the probabilities can be taken at their word |
| C017 | that there was no cross-validation, where there was none |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from strataprobe.compare.elsewhere import elsewhere_findings
from strataprobe.compare.findings_beyond import (
    calibration_findings,
    ensemble_findings,
    fold_findings,
    geometry_findings,
    learning_findings,
    shift_findings,
)
from strataprobe.compare.wording import Finding, as_finding, best_entry, interval_words, primary_entries, spaced, three

_FEW_TEXTS_A_CLASS = 50
_WIDE = 0.10
_PERFECT = 0.9995


def collect_findings(document: dict[str, Any], facts: dict[str, Any]) -> list[Finding]:
    """Every finding of a comparison document, in order of code.

    ``facts`` holds what the document does not: ``control_limit`` (a mean AUC of shuffled labels that chance does not
    reach), ``unconverged`` (a list of layers, None where it was not recorded), ``shared_groups`` (a count).
    """
    makers: list[Callable[[dict[str, Any], dict[str, Any]], list[Finding]]] = [
        _best_layer,
        _tied_layers,
        _can_rank,
        _baselines,
        _control,
        _test_size,
        _convergence,
        _skipped_baselines,
        _confirmed,
        elsewhere_findings,
        _groups,
        ensemble_findings,
        learning_findings,
        geometry_findings,
        shift_findings,
        calibration_findings,
        fold_findings,
    ]
    return [finding for maker in makers for finding in maker(document, facts)]


def _best_layer(document: dict[str, Any], facts: dict[str, Any]) -> list[Finding]:
    readout, best = document["primary_readout"], best_entry(document)
    if best is not None:
        return [
            as_finding(
                "C001",
                "ok",
                f"Layer {best['layer']} (block index {best['block_index']}) is the best of "
                f"readout `{readout}`: AUC {interval_words(best, 'cv_auc')} {_where(document)} and "
                f"{interval_words(best, 'test_auc')} on the test texts, accuracy there "
                f"{three(best['test_accuracy'])}.",
            )
        ]
    known = [e for e in primary_entries(document) if e["cv_auc"] is not None]
    if not known:
        return [
            as_finding(
                "C001",
                "error",
                f"No layer of readout `{readout}` has a cross-validated AUC, as no fold "
                "holds more than one class: add texts of every class.",
            )
        ]
    top = max(known, key=lambda e: e["cv_auc"])
    hurdle = max(0.5, top["control_val_auc"] or 0.0)
    return [
        as_finding(
            "C001",
            "warning",
            f"No layer of readout `{readout}` beats its control, so there is no best "
            f"layer: the highest AUC {_where(document)} is {three(top['cv_auc'])} at layer {top['layer']}, and "
            f"its lower bound, made to hold for all layers at once, is {three(top['simultaneous_low'])}, not "
            f"above {three(hurdle)}; check the labels and the suffix, or give more texts.",
        )
    ]


def _where(document: dict[str, Any]) -> str:
    """Where the AUCs of the curve were measured."""
    return "in cross-validation" if document.get("n_folds", 1) else "on the validation texts"


def _tied_layers(document: dict[str, Any], facts: dict[str, Any]) -> list[Finding]:
    best = document["best_layer"]
    if best is None:
        return [as_finding("C002", "skipped", "Layers were not compared with the best one, as there is none.")]
    if len(primary_entries(document)) == 1:
        return [as_finding("C002", "skipped", f"Layer {best} is the only one: train more layers to compare it with.")]
    others = [layer for layer in document["tied_layers"] if layer != best]
    if not others:
        return [as_finding("C002", "ok", f"Layer {best} is better than every other layer, all pairs compared at once.")]
    n = document["n_texts"]["val"] + (document["n_texts"]["train"] if document.get("n_folds", 1) else 0)
    earliest = min(document["tied_layers"])
    advice = f"; the earliest of them, {earliest}, needs the fewest blocks" if earliest != best else ""
    return [
        as_finding(
            "C002",
            "ok",
            f"Layers {spaced(document['tied_layers'])} cannot be told apart on these {n:,} "
            f"texts (all pairs compared at once): layer {best} has the highest AUC of them, but any of them "
            f"may be the best{advice}; more texts would tell more of them apart.",
        )
    ]


def _can_rank(document: dict[str, Any], facts: dict[str, Any]) -> list[Finding]:
    if document["best_layer"] is None:
        return [as_finding("C003", "skipped", "There is nothing to rank, as no layer beats its control.")]
    perfect = [e["layer"] for e in primary_entries(document) if (e["cv_auc"] or 0.0) >= _PERFECT]
    if len(perfect) < 2:
        return [as_finding("C003", "ok", "The texts are hard enough to rank the layers.")]
    return [
        as_finding(
            "C003",
            "warning",
            f"Layers {spaced(perfect)} are all perfect, so these texts cannot rank them: "
            "give harder texts, or text from elsewhere with --eval NAME=FILE.",
        )
    ]


def _baselines(document: dict[str, Any], facts: dict[str, Any]) -> list[Finding]:
    if document["best_layer"] is None:
        return [as_finding("C004", "skipped", "Baselines were not compared with the best layer, as there is none.")]
    known = {k: b for k, b in document["baselines"].items() if b["test_auc"] is not None and k != "majority"}
    if not known:
        return [as_finding("C004", "skipped", "There is no baseline to compare the best layer with.")]
    equal = [k for k, b in known.items() if b["best_minus_this_low"] is None or b["best_minus_this_low"] <= 0]
    if not equal:
        return [as_finding("C004", "ok", f"The best layer is above every baseline on test texts: {', '.join(known)}.")]
    advice = {
        "tfidf": "the words alone give the class away (see the data audit), so test on text that no generator wrote",
        "length": "the classes differ in length, so even the lengths out",
        "zero_shot": "asking the model does as well as a probe on these texts",
        "layer_0": "word identity is enough on these texts, so test on text from elsewhere",
        "lexicon": "a word list is enough on these texts, so test on text from elsewhere",
    }
    best = best_entry(document)
    assert best is not None
    told = [k for k in equal if (known[k]["test_auc_low"] or 0.0) > 0.5]
    at_chance = [f"{k} (AUC {three(known[k]['test_auc'])})" for k in equal if k not in told]
    few = (
        f"The test texts are too few to tell the best layer, AUC {interval_words(best, 'test_auc')}, from baselines "
        f"that may be at chance: {', '.join(at_chance)}; take more texts."
    )
    return [
        as_finding(
            "C004",
            "warning",
            f"The baseline {k} reaches AUC {three(known[k]['test_auc'])} on the test texts, "
            f"{_verdict(known[k], best)}: {advice[k]}.",
        )
        for k in told
    ] + ([as_finding("C004", "warning", few)] if at_chance else [])


def _verdict(baseline: dict[str, Any], best: dict[str, Any]) -> str:
    high = baseline["best_minus_this_high"]
    above = high is not None and high < 0
    return f"{'above' if above else 'which cannot be told from'} the best layer's {three(best['test_auc'])}"


def _control(document: dict[str, Any], facts: dict[str, Any]) -> list[Finding]:
    limit = facts["control_limit"]
    known = [e for e in primary_entries(document) if e["control_auc"] is not None]
    if not known or limit is None:
        return [as_finding("C005", "skipped", "There are no control probes: the test texts lack a class.")]
    above = [e["layer"] for e in known if e["control_auc"] > limit]
    if not above:
        top = max(e["control_auc"] for e in known)
        return [
            as_finding("C005", "ok", f"Probes trained on shuffled labels stay at chance (AUC {three(top)} at most).")
        ]
    return [
        as_finding(
            "C005",
            "warning",
            f"Probes trained on shuffled labels are above chance at layers {spaced(above)} "
            f"(AUC over {three(limit)}): look for texts that occur both in train and in test.",
        )
    ]


def _test_size(document: dict[str, Any], facts: dict[str, Any]) -> list[Finding]:
    n, fewest = document["n_texts"]["test"], min(document["test_texts_by_class"].values(), default=0)
    if fewest == 0:
        return [
            as_finding(
                "C006",
                "error",
                "The test split lacks a class, so there is no test AUC: add texts of every class, or change the split.",
            )
        ]
    best = best_entry(document)
    width = 0.0 if best is None else best["test_auc_high"] - best["test_auc_low"]
    if fewest >= _FEW_TEXTS_A_CLASS and width <= _WIDE:
        return [as_finding("C006", "ok", f"The test set is large enough: {n:,} texts, {fewest:,} of the rarest class.")]
    wide = "" if best is None else f", and the interval of the best layer's AUC is {three(width)} wide"
    return [
        as_finding(
            "C006",
            "warning",
            f"The test set is small: {n:,} texts, {fewest:,} of the rarest class{wide}; "
            "take more texts before quoting small differences.",
        )
    ]


def _convergence(document: dict[str, Any], facts: dict[str, Any]) -> list[Finding]:
    failed = facts["unconverged"]
    if failed is None:
        return [as_finding("C007", "skipped", "Whether the probes converged was not recorded with them.")]
    if failed:
        return [
            as_finding(
                "C007",
                "warning",
                f"The probes of layers {spaced(failed)} did not reach their optimum: look "
                "for activations of extreme size there.",
            )
        ]
    return [as_finding("C007", "ok", "Every probe reached its optimum.")]


def _skipped_baselines(document: dict[str, Any], facts: dict[str, Any]) -> list[Finding]:
    return [
        as_finding("C008", "skipped", f"The baseline {name} was skipped: {entry['reason']}.")
        for name, entry in document["baselines"].items()
        if entry["test_auc"] is None
    ]


def _confirmed(document: dict[str, Any], facts: dict[str, Any]) -> list[Finding]:
    best = best_entry(document)
    if best is None or best["test_auc"] is None:
        return [as_finding("C009", "skipped", "There is no choice for the test texts to confirm.")]
    if best["test_auc_high"] < best["cv_auc_low"]:
        return [
            as_finding(
                "C009",
                "warning",
                f"The test texts do not confirm layer {best['layer']}: AUC "
                f"{interval_words(best, 'test_auc')} there, {interval_words(best, 'cv_auc')} "
                f"{_where(document)}; the test texts are of another kind.",
            )
        ]
    return [
        as_finding(
            "C009",
            "ok",
            f"The test texts, which played no part in choosing layer {best['layer']}, agree "
            f"with that choice: AUC {three(best['test_auc'])}, and {three(best['cv_auc'])} {_where(document)}.",
        )
    ]


def _groups(document: dict[str, Any], facts: dict[str, Any]) -> list[Finding]:
    if facts["shared_groups"]:
        return [
            as_finding(
                "C011",
                "error",
                f"{facts['shared_groups']:,} groups of related texts lie both in train or "
                "validation and in test, so the test AUC is too high: split by group.",
            )
        ]
    return [as_finding("C011", "ok", "Every group of related texts lies in one split.")]
