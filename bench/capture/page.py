"""The results of ``python -m bench.capture`` as Markdown."""

from __future__ import annotations

import statistics
from typing import Any

from bench.capture.contestants import INSIDE, PASSES
from bench.capture.rounds import FLOOR, STAGE

TWO_RATIO, PADDING, SLOWER = 1.05, 0.03, 3.0


def page(document: dict[str, Any]) -> str:
    """The whole page."""
    found = document["results"]
    parts = [_heading(document), _ways(found), _wanted(found), _where(found)]
    if "matmul_ceiling_tflop_per_s" in found:
        parts.append(_device(found))
    return "\n\n".join(parts) + "\n"


def _heading(document: dict[str, Any]) -> str:
    machine, found, versions = document["machine"], document["results"], document["versions"]
    picked = {
        share: f"{n} random texts a round, scaled by the tokens" if n < found["texts"] else "all texts"
        for share, n in found["texts_picked"].items()
    }
    others = (
        f" The others keep the last token alone, in memory. Those that read one text "
        f"at a time: {picked['one at a time']}; batched: {picked['batched']}. As people run them, (b), (c) and "
        "(d) compute the LM head and keep a cache; (e) stops after the last layer, without a head; it is nnterp's "
        "collect over nnsight's own model class, since nnterp's does not load with this nnsight "
        "(nor does the collect, unless one import of it is led to where nnsight keeps that class now)."
    )
    if not any(name.startswith("(") and name != FLOOR for name in found["ways"]):
        others = ""
    return "\n".join(
        [
            "# Capture against the floor and other tools",
            "",
            f"Written by `{document['command']}`: {machine['device']}, {machine['cores']} cores, {machine['machine']}, "
            f"{machine['threads']} threads, OMP_WAIT_POLICY {machine['OMP_WAIT_POLICY']}, torch {versions['torch']}, "
            f"transformers {versions['transformers']}.",
            "",
            f"{document['model']} with random weights, {found['dtype']}, {found['layers']} layers; {found['texts']} "
            f"texts of {found['lengths'][0]} to {found['lengths'][1]} tokens, {found['tokens']:,} in all, in "
            f"{found['batches']} batches with {100 * found['padding_share']:.2f} % padding; medians (quartiles) of "
            f"{found['rounds']} interleaved rounds. Loading the model, {found['loading_s']:.1f} s, is not in them.",
            "",
            f"`{STAGE}` goes from token ids to closed, checksummed HDF5 files: readouts last and mean of every layer, and "
            "the embeddings. It is the time of the whole stage less that of reading the file of texts and tokenising."
            + others,
        ]
    )


def _ways(found: dict[str, Any]) -> str:
    gpu = any("peak_memory_gib" in way for way in found["ways"].values())
    lines = [
        f"| how | seconds | tokens/s | times ours | times the floor | largest difference |{' peak GiB |' if gpu else ''}",
        f"| --- | ---: | ---: | ---: | ---: | ---: |{' ---: |' if gpu else ''}",
    ]
    for name, way in found["ways"].items():
        low, high = way["quartiles_s"]
        gap = f"{way['largest_difference_of_norm']:.1e}" if "largest_difference_of_norm" in way else ""
        peak = f" {way.get('peak_memory_gib', '')} |" if gpu else ""
        lines.append(
            f"| {name} | {way['median_s']:.3f} ({low:.3f}, {high:.3f}) | {way['tokens_per_s']:,.0f} | "
            f"{way['times_ours']:.2f} | {way['times_floor']:.3f} | {gap} |{peak}"
        )
    lines += [
        "",
        "Largest difference: from what is in the files that `strataprobe` wrote, relative to the norm, over all layers.",
    ]
    return "\n".join(lines)


def _wanted(found: dict[str, Any]) -> str:
    ways = found["ways"]
    by_round = ways[STAGE]["times_floor_by_round"]
    lines = [
        "## Wanted",
        "",
        f"- Ours over the floor: {ways[STAGE]['times_floor']:.3f} of medians, {statistics.median(by_round):.3f} the "
        f"median of the rounds' ratios ({', '.join(f'{r:.3f}' for r in by_round)}); "
        f"at most {TWO_RATIO} is wanted. In processor time "
        f"{ways[STAGE]['processor_median_s'] / ways[FLOOR]['processor_median_s']:.3f}, reading and tokenising included.",
        f"- Padding: {100 * found['padding_share']:.2f} % of the texts' tokens; at most {100 * PADDING:.0f} % is wanted.",
    ]
    for name, way in ways.items():
        if name.startswith(("(b) hidden", "(c) nnsight")):
            lines.append(f"- {name}: {way['times_ours']:.2f} times ours; at least {SLOWER:.0f} is wanted.")
        elif name.startswith(("(d)", "(e)")):
            lines.append(f"- {name}: {way['times_ours']:.2f} times ours; above 1 is wanted.")
    return "\n".join(lines)


def _where(found: dict[str, Any]) -> str:
    lines = [
        "## Where the time goes",
        "",
        "Parts of the stage, medians. `beside` is time on the writer's own thread while the passes go on; it costs only "
        "what it takes from their cores.",
        "",
        "| part | seconds | per cent of the floor | beside, seconds |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, part in found["parts"].items():
        lines.append(
            f"| {name} | {part['seconds']:.3f} | {100 * part['share_of_floor']:.2f} | {part['beside_seconds']:.3f} |"
        )
    beyond = 100 * (found["parts"][PASSES]["share_of_floor"] - found["parts"][INSIDE]["share_of_floor"] - 1)
    lines += [
        "",
        f"The passes without the readouts differ from the floor by {beyond:+.2f} %: padding the batches' ids, hooks, copies "
        "to the host, what the writer's thread takes from them, and no final norm.",
    ]
    return "\n".join(lines)


def _device(found: dict[str, Any]) -> str:
    ceilings = ", ".join(f"{name} {c:,.0f} TFLOP/s" for name, c in found["matmul_ceiling_tflop_per_s"].items())
    lines = [
        "## Share of what the device can do",
        "",
        f"Square matrix products of 4,096 to 8,192: {ceilings}. The blocks need {found['model_flop'] / 1e12:,.1f} TFLOP for "
        "these texts (no padding, head or embeddings). The share of the bf16 ceiling that each way reaches:",
        "",
        "| how | share |",
        "| --- | ---: |",
    ]
    lines += [f"| {name} | {100 * way['share_of_bf16_ceiling']:.1f} % |" for name, way in found["ways"].items()]
    return "\n".join(lines)
