"""Findings of the audit: permanent codes, each with a level and what to do."""

from __future__ import annotations

from typing import Any

LEAK_LIMIT = 0.90
# Fewer accepted answers than this share, or labels that a judge agrees with, are worth a warning.
LOW_ACCEPTANCE = 0.5
LOW_AGREEMENT = 0.8
# A sentence that stands in the texts of more groups than this is a frame that a probe may learn.
HANDFUL = 10

Finding = dict[str, str]


def findings_of(report: dict[str, Any]) -> list[Finding]:
    """What the audit found, each with a permanent code, a level and what to do."""
    counts, duplicates, leak = report["counts"], report["duplicates"], report["leak"]
    labels = counts["label"]
    return [
        _balance(labels),
        _banned_finding(report["banned_words"]),
        _rule("G003", not duplicates["exact"], f"{duplicates['exact']:,} texts repeat an earlier one word for word"
              f" ({duplicates['exact_with_other_label']:,} under another label): remove them, or group them.",
              "no text is repeated word for word."),
        _rule("G004", not duplicates["near_across_splits"], f"{duplicates['near_across_splits']:,} pairs of"
              " near-duplicates lie in different splits, so the test is not of new text: give them one group.",
              "no near-duplicates lie in different splits."),
        _leak_finding(leak),
        _rule("G006", not report["n_unlabelled"], f"{report['n_unlabelled']:,} texts have no label: they are captured,"
              " not trained on.", "every text has a label.", bad="ok"),
        _length_finding(report["length_words"]),
        _rule("G008", all(len(by) == len(labels) for by in counts["split_by_label"].values()), "a split lacks a class:"
              " give more texts, or groups that spread over the splits.", "every split holds every class."),
        _missing_finding(report["asked"]),
        _acceptance_finding(report["asked"]),
        _judge_finding(report["judge"]),
        _repeated_finding(report["repeated_sentences"]),
    ]  # fmt: skip


def _finding(code: str, level: str, message: str) -> Finding:
    return {"code": code, "level": level, "message": message}


def _rule(code: str, good: bool, problem: str, fine: str, bad: str = "warning") -> Finding:
    return _finding(code, "ok" if good else bad, fine if good else problem)


def _balance(labels: dict[str, int]) -> Finding:
    if len(labels) < 2:
        return _finding("G001", "warning", f"{len(labels)} class has texts; a probe needs two.")
    low, high = min(labels.values()), max(labels.values())
    return _rule("G001", high <= 1.5 * low, f"the largest class has {high:,} texts, the smallest {low:,}: accuracy will"
                 " mislead, read the AUC.", "the classes are of like size.")  # fmt: skip


def _banned_finding(banned: dict[str, Any] | None) -> Finding:
    if banned is None:
        return _finding("G002", "skipped", "there is no recipe, so naming the class was not looked for.")
    words = ", ".join(list(banned["words"])[:5])
    return _rule("G002", not banned["n_texts"], f"{banned['n_texts']:,} texts name the class or a member ({words}):"
                 " a probe may learn the word and not the concept; rewrite them.",
                 "no text names its class or member.")  # fmt: skip


def _leak_finding(leak: dict[str, Any]) -> Finding:
    if leak["auc"] is None:
        return _finding("G005", "skipped", f"the leak was not measured: {leak['skipped']}.")
    return _rule("G005", leak["auc"] <= LEAK_LIMIT, f"a bag of words tells the classes apart with AUC {leak['auc']:.3f}"
                 f" (limit {LEAK_LIMIT:.2f}): vary the wording, and compare the probes with the tfidf baseline.",
                 f"a bag of words reaches AUC {leak['auc']:.3f} (limit {LEAK_LIMIT:.2f}).")  # fmt: skip


def _length_finding(lengths: dict[str, dict[str, float]]) -> Finding:
    means = [v["mean"] for name, v in lengths.items() if name != "(none)"]
    if len(means) < 2:
        return _finding("G007", "skipped", "lengths were not compared: fewer than two classes have texts.")
    return _rule("G007", max(means) <= 1.15 * min(means), f"mean length differs by class ({min(means):.1f} to"
                 f" {max(means):.1f} words): a probe may learn length; compare it with the length baseline.",
                 "the classes have texts of like length.")  # fmt: skip


def _missing_finding(asked: dict[str, Any] | None) -> Finding:
    if asked is None:
        return _finding("G009", "skipped", "the texts were written elsewhere.")
    return _rule("G009", not asked["missing"], f"{asked['missing']:,} planned texts are missing, no answer for them was"
                 " accepted: see rejected.jsonl for why.", "every planned text is there.")  # fmt: skip


def _acceptance_finding(asked: dict[str, Any] | None) -> Finding:
    if asked is None or asked["acceptance_rate"] is None:
        return _finding("G010", "skipped", "the texts were written elsewhere.")
    reasons = ", ".join(f"{name} {n:,}" for name, n in list(asked["rejected"].items())[:3])
    return _rule("G010", asked["acceptance_rate"] >= LOW_ACCEPTANCE, f"{asked['acceptance_rate']:.0%} of the answers were"
                 f" accepted (rejected most for {reasons}): another model, or clearer instructions in the recipe, would"
                 " save time.", f"{asked['acceptance_rate']:.0%} of the answers were accepted.")  # fmt: skip


def _judge_finding(judge: dict[str, Any] | None) -> Finding:
    if judge is None:
        return _finding("G011", "skipped", "no second model was asked (--judge).")
    weakest = min(judge["by_class"], key=lambda name: judge["by_class"][name], default="")
    agrees = f"{judge['model']} agrees with {judge['agreement']:.0%} of {judge['n']:,} labels"
    if 3 * judge["n_unclear"] > judge["n"] or not judge["n"]:
        return _finding("G011", "warning", f"{judge['model']} named no class for {judge['n_unclear']:,} of {judge['n']:,}"
                        " texts, so it says little of the labels: ask another judge.")  # fmt: skip
    return _rule("G011", judge["agreement"] >= LOW_AGREEMENT, f"{agrees}, least for {weakest}: read some of those texts,"
                 " and describe the classes more sharply.", f"{agrees}.")  # fmt: skip


def _repeated_finding(most: dict[str, int]) -> Finding:
    sentence, n = next(iter(most.items()), ("", 1))
    return _rule(
        "G012",
        n <= HANDFUL,
        f"one sentence stands in the texts of {n:,} groups ({sentence[:60]!r}): a probe may learn the frame, so vary it.",
        f"no sentence stands in the texts of more than {HANDFUL} groups.",
    )
