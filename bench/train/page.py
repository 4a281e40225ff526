"""The results of ``python -m bench.train`` as Markdown."""

from __future__ import annotations

from typing import Any

from bench.train.contestants import (
    DEFAULT,
    EXACT_LBFGS,
    GRAM_DEFAULT,
    GRAM_NEWTON,
    NEWTON,
    ORIGIN,
    ORIGIN_BARE,
    OURS,
    OURS_ROUGH,
)

WANTED = {DEFAULT: 5.0, ORIGIN: 10.0, ORIGIN_BARE: 10.0, GRAM_NEWTON: 1.0, GRAM_DEFAULT: 1.0}


def page(document: dict[str, Any]) -> str:
    """The whole page."""
    return "\n\n".join([_heading(document), _ways(document), _wanted(document)]) + "\n"


def _heading(document: dict[str, Any]) -> str:
    machine, versions, chosen = (document[key] for key in ("machine", "versions", "chosen"))
    return "\n".join(
        [
            "# Fitting one layer against scikit-learn and the origin's protocol",
            "",
            f"Written by `{document['command']}`: {machine['cores']} cores, {machine['machine']}, {machine['threads']} "
            f"threads, OMP_WAIT_POLICY {machine['OMP_WAIT_POLICY']}, torch {versions['torch']}, scikit-learn "
            f"{versions['scikit-learn']}, numpy {versions['numpy']}.",
            "",
            f"{chosen['n_train']} training texts x {chosen['width']:,} in the shape of a residual stream "
            f"(`bench/train/streams.py`), {len(chosen['Cs'])} values of C from {chosen['Cs'][0]:g} to {chosen['Cs'][-1]:g}, "
            f"medians (quartiles) of {chosen['rounds']} interleaved rounds. Every way starts from raw float32 activations "
            "and ends with weights in D features. scikit-learn's default works in float32 as it is given float32, its "
            f"other ways in float64; `{NEWTON}` is one fit of the grid a round, times {len(chosen['Cs'])}. The origin's "
            "protocol trains one setting on the same texts, with 210 more for its early stopping.",
        ]
    )


def _ways(document: dict[str, Any]) -> str:
    lines = [
        "| how | seconds | times ours | objective above the optimum, median C | worst C | AUC, best C | largest difference "
        "in AUC |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, way in document["ways"].items():
        low, high = way["quartiles_s"]
        above = sorted(way.get("objective_above_optimum", []))
        accuracy = f"{above[len(above) // 2]:.0e} | {above[-1]:.0e}" if above else " | "
        gap = f"{way['largest_auc_difference']:.0e}" if "largest_auc_difference" in way and name != OURS else ""
        lines.append(
            f"| {name} | {way['median_s']:.3f} ({low:.3f}, {high:.3f}) | {way['times_ours']:.1f} | {accuracy} | "
            f"{max(way['auc']):.4f} | {gap} |"
        )
    lines += [
        "",
        f"The optimum: the lowest objective that any way found at that C. AUCs on {document['chosen']['n_unseen']:,} texts "
        "that no way was given; differences are to ours at the same C.",
    ]
    return "\n".join(lines)


def _wanted(document: dict[str, Any]) -> str:
    ways = document["ways"]
    lines = ["## Wanted", ""]
    for name, least in WANTED.items():
        lines.append(f"- {name}: {ways[name]['times_ours']:.1f} times ours; at least {least:g} is wanted.")
    rough = ways[OURS_ROUGH]
    by_default = ways[DEFAULT]["median_s"] / rough["median_s"]
    lines += [
        f"- {EXACT_LBFGS}, which comes as near to the optimum as ours: {ways[EXACT_LBFGS]['times_ours']:.1f} times ours.",
        f"- {OURS_ROUGH}, as cross-validation runs it: within {max(rough['objective_above_optimum']):.0e} of the optimum, "
        f"where scikit-learn's default, {by_default:.1f} times as long, is off by up to "
        f"{max(ways[DEFAULT]['objective_above_optimum']):.0e}.",
    ]
    return "\n".join(lines)
