"""Findings about text from elsewhere (``--eval``): how the best layer does on it, and which layers lack it."""

from __future__ import annotations

from typing import Any

from strataprobe.compare.wording import Finding, as_finding, best_entry, eval_names, spaced, three

# A fall in AUC that is worth a warning.
_FALL = 0.10


def elsewhere_findings(document: dict[str, Any], facts: dict[str, Any]) -> list[Finding]:
    """The findings with code C010."""
    best, names = best_entry(document), eval_names(document["layers"])
    if not names:
        return [as_finding("C010", "skipped", "No text from elsewhere was given: do so with --eval NAME=FILE.")]
    if best is None:
        found = [as_finding("C010", "skipped", "There is no best layer to try on text from elsewhere.")]
    else:
        found = [_on_text(best, name) for name in sorted(best["eval"])]
    return found + [finding for name in names for finding in _captured_without(document, name)]


def _on_text(best: dict[str, Any], name: str) -> Finding:
    value = best["eval"][name]
    if value is None:
        return as_finding("C010", "skipped", f"{name} has no AUC: it needs labelled texts of both classes.")
    fell = best["test_auc"] is not None and best["test_auc"] - value > _FALL
    advice = "; expect this, not the test AUC, on text of that kind" if fell else ""
    return as_finding(
        "C010",
        "warning" if fell else "ok",
        f"On {name}, layer {best['layer']} reaches AUC "
        f"{three(value)}, {three(best['test_auc'])} on the test texts{advice}.",
    )


def _captured_without(document: dict[str, Any], name: str) -> list[Finding]:
    lacking = {e["layer"] for e in document["layers"] if name not in e["eval"]}
    if not lacking:
        return []
    noun = "Layer" if len(lacking) == 1 else "Layers"
    verb = "was" if len(lacking) == 1 else "were"
    return [
        as_finding(
            "C010",
            "warning" if document["best_layer"] in lacking else "skipped",
            f"{noun} {spaced(lacking)} {verb} captured without {name}, so there is no AUC on it there: capture "
            f"again with the same --eval {name}=FILE to add it.",
        )
    ]
