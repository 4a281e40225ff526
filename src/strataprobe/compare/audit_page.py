"""What the report shows of a data audit: the values of ``audit.json`` put in order for a page.

An audit may be of an older form or lack parts: what is missing is left out, and what is not known to this page is
listed as it is. Nothing is escaped here; the template does that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from strataprobe.compare.audit_values import (
    N_MOST,
    N_UNFOLDED,
    audit_rows,
    bars_of,
    list_of,
    mapping_of,
    number_of,
    numbers_of,
    spoken,
    strip_of,
    tenth,
    whole,
)
from strataprobe.compare.wording import best_entry, percent, three

_LEVELS = ("error", "warning", "ok", "skipped")
_N_UNFOLDED_WORDS = 8
_PARTS = (
    "counts",
    "length_words",
    "distinct",
    "repeated_sentences",
    "banned_words",
    "duplicates",
    "leak",
    "asked",
    "judge",
)
_DUPLICATES = {
    "exact": "word for word the same as an earlier text",
    "exact_across_splits": "of them in another split than that one",
    "exact_with_other_label": "of them under another label",
    "near": "pairs of near-duplicates",
    "near_across_splits": "of them across splits",
}
_ASKED = {
    "answers": "answers",
    "accepted": "accepted",
    "acceptance_rate": "acceptance rate",
    "missing": "texts missing",
}


def audit_page(audit: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of the page, each None or empty where the audit lacks it.

    ``document`` is the comparison, for the AUCs that stand beside the leak.
    """
    parts = {name: mapping_of(audit.get(name)) for name in _PARTS}
    counts = parts["counts"]
    return {
        "summary": _summary(audit, counts),
        "findings": audit_findings(audit),
        "classes": _classes(counts, parts["length_words"]),
        "counts": _counted(counts),
        "not_given": [spoken(name) for name, value in counts.items() if isinstance(value, Mapping) and not value],
        "leak": _leak(parts["leak"], document),
        "words": _top_words(parts["leak"]),
        "distinct": _shares(parts["distinct"]),
        "repeated": sorted(numbers_of(parts["repeated_sentences"]).items(), key=lambda item: -item[1])[:N_MOST],
        "banned": _banned(parts["banned_words"]),
        "duplicates": _duplicates(parts["duplicates"]),
        "asked": _asked(parts["asked"]),
        "judge": _judge(parts["judge"]),
        "other": audit_rows({name: value for name, value in audit.items() if _unknown(name, value)}),
    }


def audit_findings(audit: Mapping[str, Any]) -> list[dict[str, str]]:
    """The audit's own coded findings, the gravest first; those of another form are left out."""
    usable = [f for f in list_of(audit.get("findings")) if isinstance(f, Mapping)]
    known = [
        {k: str(f[k]) for k in ("code", "level", "message")} for f in usable if {"code", "level", "message"} <= f.keys()
    ]
    return sorted((f for f in known if f["level"] in _LEVELS), key=lambda f: _LEVELS.index(f["level"]))


def _unknown(name: str, value: Any) -> bool:
    """Whether no part of the page shows this value."""
    if name in ("n_texts", "n_unlabelled"):
        return value is not None and number_of(value) is None
    return value is not None and not isinstance(value, Mapping) if name in _PARTS else True


def _summary(audit: Mapping[str, Any], counts: Mapping[str, Any]) -> str:
    n, groups, unlabelled = (
        number_of(audit.get("n_texts")),
        number_of(counts.get("groups")),
        number_of(audit.get("n_unlabelled")),
    )
    if n is None:
        return ""
    splits = ", ".join(f"{name} {whole(value)}" for name, value in numbers_of(mapping_of(counts.get("split"))).items())
    words = f"{whole(n)} texts" + (f" in {whole(groups)} groups of related texts" if groups is not None else "")
    words += f": {splits}." if splits else "."
    return words + (f" {whole(unlabelled)} have no label." if unlabelled else "")


def _classes(counts: Mapping[str, Any], lengths: Mapping[str, Any]) -> dict[str, Any] | None:
    """A row for each class: its texts, by split, and their length in words with a strip from 5 % to 95 %."""
    labels, by_split = numbers_of(mapping_of(counts.get("label"))), mapping_of(counts.get("split_by_label"))
    splits = {str(name): numbers_of(mapping_of(value)) for name, value in by_split.items()}
    known = {name: numbers_of(mapping_of(value)) for name, value in lengths.items()}
    names = list(dict.fromkeys([*labels, *(name for by in splits.values() for name in by), *known]))
    if not names:
        return None
    longest = max((value for by in known.values() for value in by.values()), default=0.0)
    rows = []
    for name in names[:N_MOST]:
        own = known.get(name, {})
        rows.append(
            {
                "name": name,
                "texts": whole(labels.get(name)),
                "splits": [whole(by.get(name, 0)) for by in splits.values()],
                "mean": tenth(own.get("mean")),
                "span": f"{whole(own['p5'])} to {whole(own['p95'])}" if {"p5", "p95"} <= own.keys() else "",
                "strip": strip_of(own.get("p5"), own.get("mean"), own.get("p95"), 0.0, longest),
            }
        )
    means = [by["mean"] for by in known.values() if "mean" in by]
    return {
        "splits": list(splits),
        "rows": rows,
        "more": len(names) - len(rows),
        "folded": len(names) > N_UNFOLDED,
        "measured": bool(means),
        "longest": f"{longest:,.0f}",
        "note": _sizes(list(labels.values()), "classes", "class")
        + (f" Mean length: {min(means):.1f} to {max(means):.1f} words." if means else ""),
    }


def _counted(counts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Bars for each field but the classes, which have a table, short ones first."""
    found = []
    for name, value in counts.items():
        own = numbers_of(mapping_of(value))
        if not own or name in ("label", "split_by_label"):
            continue
        ordered = list(own.items()) if name == "split" else sorted(own.items(), key=lambda item: -item[1])
        bars = bars_of([(key, n, whole(n)) for key, n in ordered])
        found.append(bars | {"name": spoken(name), "note": _sizes(list(own.values()), "values", "value")})
    return sorted(found, key=lambda bars: bars["folded"])


def _leak(leak: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any] | None:
    """The audit's own figure with its folds, then TF-IDF and the best layer on one and the same rows and folds."""
    rows: list[dict[str, Any]] = []
    value, folds = (
        number_of(leak.get("auc")),
        [f for f in map(number_of, list_of(leak.get("auc_folds"))) if f is not None],
    )
    if value is not None:
        span = f"folds {three(min(folds))} to {three(max(folds))}" if folds else ""
        rows.append({"name": "bag of words, in the audit", "cv": value, "span": span, "ticks": folds, "low": None,
                     "high": None, "test": None, "test_span": "", "best": False})  # fmt: skip
    baseline = document["baselines"].get("tfidf", {})
    best = best_entry(dict(document))
    entries = [("TF-IDF, folds of the layers", baseline, False)]
    entries += [] if best is None else [(f"layer {best['layer']} (best)", best, True)]
    for name, entry, is_best in entries:
        if entry.get("cv_auc") is not None or entry.get("test_auc") is not None:
            rows.append(
                {"name": name, "cv": entry.get("cv_auc"), "span": _span(entry, "cv_auc"), "ticks": [],
                 "low": entry.get("cv_auc_low"), "high": entry.get("cv_auc_high"), "test": entry.get("test_auc"),
                 "test_span": _span(entry, "test_auc"), "best": is_best}
            )  # fmt: skip
    if not leak or not rows:
        return None
    values = [v for row in rows for v in (row["low"], row["cv"], *row["ticks"]) if v is not None]
    start = min(0.5, *values) if values else 0.5
    for row in rows:
        row["strip"] = strip_of(row["low"], row["cv"], row["high"], start, 1.0, row["ticks"])
    texts = number_of(leak.get("n_texts"))
    return {
        "rows": rows,
        "start": three(start),
        "setup": str(leak.get("setup", "")),
        "n_texts": "" if texts is None else f"{whole(texts)}",
        "skipped": str(leak["skipped"]) if value is None and leak.get("skipped") else "",
        "folds": [three(fold) for fold in folds],
        "difference": _difference(baseline, best),
    }


def _difference(baseline: Mapping[str, Any], best: Mapping[str, Any] | None) -> str:
    """How far the best layer is above the words, in cross-validation."""
    words, layer = baseline.get("cv_auc"), None if best is None else best["cv_auc"]
    if words is None or layer is None or best is None:
        return ""
    gap = layer - words
    side = "above" if gap >= 0 else "below"
    return (
        f"On the same rows and folds layer {best['layer']} reaches {three(layer)} and the words alone {three(words)}: "
        f"the layer is {three(abs(gap))} {side} them."
    )


def _top_words(leak: Mapping[str, Any]) -> dict[str, Any]:
    """The words that speak most for each class."""
    found = [(str(name), [str(w) for w in list_of(words)]) for name, words in mapping_of(leak.get("top_words")).items()]
    rows = [(name, words) for name, words in found if words]
    return {"rows": rows[:N_MOST], "more": max(len(rows) - N_MOST, 0), "folded": len(rows) > _N_UNFOLDED_WORDS}


def _banned(banned: Mapping[str, Any]) -> dict[str, Any] | None:
    n = number_of(banned.get("n_texts"))
    if n is None:
        return None
    words = [(name, value, whole(value)) for name, value in numbers_of(mapping_of(banned.get("words"))).items()]
    return {"n": whole(n), "any": n > 0, "bars": bars_of(words)}


def _duplicates(duplicates: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Name, number, and whether a number above 0 is to be mended."""
    known = numbers_of(duplicates)
    ordered = [name for name in _DUPLICATES if name in known] + [name for name in known if name not in _DUPLICATES]
    return [
        {"name": _DUPLICATES.get(k, spoken(k)), "n": whole(known[k]), "bad": known[k] > 0 and k != "near"}
        for k in ordered
    ]


def _asked(asked: Mapping[str, Any]) -> dict[str, Any] | None:
    if not asked:
        return None
    values = numbers_of(asked)
    rows = [
        (said, percent(values[k]) if k == "acceptance_rate" else whole(values[k]))
        for k, said in _ASKED.items()
        if k in values
    ]
    rejected = sorted(numbers_of(mapping_of(asked.get("rejected"))).items(), key=lambda item: -item[1])
    rows += audit_rows({k: v for k, v in asked.items() if k not in (*_ASKED, "rejected")})
    return {"rows": rows, "rejected": bars_of([(spoken(name), n, whole(n)) for name, n in rejected])}


def _judge(judge: Mapping[str, Any]) -> dict[str, Any] | None:
    if not judge:
        return None
    values = numbers_of(judge)
    rows = [("model", str(judge["model"]))] if judge.get("model") else []
    rows += [("agreement", percent(values["agreement"]))] if "agreement" in values else []
    rows += [("kappa (agreement beyond chance)", three(values["kappa"]))] if "kappa" in values else []
    said = {"n": "texts judged", "n_unclear": "answers that named no class, or several"}
    rows += [(words, whole(values[k])) for k, words in said.items() if k in values]
    by_class = sorted(numbers_of(mapping_of(judge.get("by_class"))).items(), key=lambda item: item[1])
    return {
        "rows": rows,
        "by_class": bars_of([(name, value, percent(value)) for name, value in by_class], most=1.0),
        "disagreements": [str(i) for i in list_of(judge.get("disagreements"))[:N_MOST]],
    }


def _shares(distinct: Mapping[str, Any]) -> dict[str, Any]:
    return bars_of([(name, value, percent(value)) for name, value in numbers_of(distinct).items()], most=1.0)


def _sizes(values: Sequence[float], many: str, one: str) -> str:
    if not values:
        return ""
    low, high = min(values), max(values)
    each = f"{whole(low)} texts each" if low == high else f"{whole(low)} to {whole(high)} texts each"
    return f"{len(values):,} {many if len(values) > 1 else one}, {each}."


def _span(entry: Mapping[str, Any], name: str) -> str:
    low, high = entry.get(f"{name}_low"), entry.get(f"{name}_high")
    return "" if low is None or high is None else f"{three(low)} to {three(high)}"
