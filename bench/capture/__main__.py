"""Seconds to read every layer of Gemma 3: ours, the floor and what people use otherwise, interleaved, results compared.

    python -m bench.capture                                             # the 270M shape on CPU, 2 threads
    python -m bench.capture --model tiny --rounds 1                     # does it work
    python -m bench.capture --model gemma3-4b --device cuda --dtype bfloat16 --texts-slow 100
    python -m bench.capture --model gemma3-4b --device cuda --dtype mixed

Weights are random. A round runs every way once; every other round runs them the other way round. The other ways are slow:
``--texts-slow N`` gives those that read one text at a time N random texts a round, ``--texts-batched N`` the batched ones,
and their seconds are scaled by the tokens. Writes bench/results/NAME.json and NAME.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bench.capture.contestants import BEFORE_TOKENS, INSIDE, Contest
from bench.capture.device import machine, matmul_ceiling_flop_per_s, model_flop, synchronize
from bench.capture.page import page
from bench.capture.rounds import FLOOR, STAGE, Bench, float32_ways, ways_of
from bench.capture.standin import SHAPES, save_model, write_texts
from strataprobe.devices import DTYPES, choose_device
from strataprobe.manifest import library_versions
from strataprobe.models import load_model
from strataprobe.progress import set_quiet

RESULTS = Path(__file__).parent.parent / "results"
WARM_TEXTS = 16


def summary(times_s: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles of one way's rounds, and the rounds."""
    low, middle, high = statistics.quantiles(times_s, n=4, method="inclusive") if len(times_s) > 1 else [*times_s] * 3
    rounded = [round(t, 4) for t in times_s]
    return {"median_s": round(middle, 4), "quartiles_s": [round(low, 4), round(high, 4)], "rounds_s": rounded}


def where_it_goes(bench: Bench, stage_s: float, floor_s: float) -> dict[str, Any]:
    """Medians of the stage's parts, in seconds and as a share of the floor; ``beside``: on the writer's thread."""
    found: dict[str, Any] = {}
    for name in bench.parts[0]:
        here_s, beside_s = (statistics.median(parts[name][i] for parts in bench.parts) for i in (0, 1))
        found[name] = {
            "seconds": round(here_s, 4),
            "share_of_floor": round(here_s / floor_s, 4),
            "beside_seconds": round(beside_s, 4),
        }
    counted_s = sum(part["seconds"] for name, part in found.items() if name not in BEFORE_TOKENS and name != INSIDE)
    rest_s = stage_s - counted_s
    found["all else"] = {
        "seconds": round(rest_s, 4),
        "share_of_floor": round(rest_s / floor_s, 4),
        "beside_seconds": 0.0,
    }
    return found


def results(bench: Bench, contest: Contest, loading_s: float) -> dict[str, Any]:
    """All that was found, as JSON."""
    n_tokens = int(contest.lengths.sum())
    seconds = {name: summary([took[name] for took in bench.rounds]) for name in bench.rounds[0]}
    cpu_s = {name: statistics.median(took[name] for took in bench.cpu_rounds) for name in bench.cpu_rounds[0]}
    stage_s, floor_s = seconds[STAGE]["median_s"], seconds[FLOOR]["median_s"]
    for name, found in seconds.items():
        ratios = [took[name] / took[FLOOR] for took in bench.rounds]
        found["tokens_per_s"] = round(n_tokens / found["median_s"], 1)
        found["times_ours"] = round(found["median_s"] / stage_s, 3)
        found["times_floor"] = round(found["median_s"] / floor_s, 4)
        found["times_floor_by_round"] = [round(ratio, 4) for ratio in ratios]
        if name in cpu_s:
            found["processor_median_s"] = round(cpu_s[name], 4)
        if name in bench.peaks_bytes:
            found["peak_memory_gib"] = round(bench.peaks_bytes[name] / 2**30, 2)
        if name in bench.gaps:
            found["largest_difference_of_norm"] = float(f"{bench.gaps[name]:.2e}")
    document = {
        "dtype": contest.model.dtype,
        "texts": len(contest.lengths),
        "tokens": n_tokens,
        "lengths": [int(contest.lengths.min()), int(contest.lengths.max())],
        "layers": contest.model.n_layers,
        "rounds": len(bench.rounds),
        "texts_picked": {share: min(n, len(contest.lengths)) for share, n in bench.n_texts.items()},
        "batches": len(contest.plan),
        "padding_share": round(contest.padding_share, 5),
        "loading_s": round(loading_s, 3),
        "ways": seconds,
        "parts": where_it_goes(bench, stage_s, floor_s),
    }
    device = contest.model.device
    if device.type == "cuda":
        kinds = {torch.bfloat16, DTYPES[contest.model.dtype]}
        ceilings = {str(kind).removeprefix("torch."): matmul_ceiling_flop_per_s(device, kind) for kind in kinds}
        flop = model_flop(contest.model, contest.lengths)
        document["model_flop"] = flop
        document["matmul_ceiling_tflop_per_s"] = {name: round(c / 1e12, 1) for name, c in ceilings.items()}
        for found in seconds.values():
            found["share_of_bf16_ceiling"] = round(flop / found["median_s"] / ceilings["bfloat16"], 4)
    return document


def run(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The whole benchmark in ``folder``."""
    device = choose_device(chosen.device)
    large = chosen.model == "gemma3-4b"
    n_texts, span = chosen.texts or (1400 if large else 512), (60, 100) if large else (25, 120)
    vocab_size = SHAPES[chosen.model]["vocab_size"]
    texts = write_texts(folder / "texts.jsonl", vocab_size, n_texts, *span)
    warm = write_texts(folder / "warm.jsonl", vocab_size, WARM_TEXTS, *span)
    save_model(folder / "model", SHAPES[chosen.model], device)
    started_s = time.perf_counter()
    model = load_model(folder / "model", dtype=chosen.dtype, device=chosen.device)
    synchronize(device)
    loading_s = time.perf_counter() - started_s
    plain = load_model(folder / "model", dtype="float32", device=chosen.device) if chosen.dtype == "mixed" else None

    def bench_of(file: Path, n_slow: int, n_batched: int) -> tuple[Bench, Contest]:
        contest = Contest(model, file, folder, chosen.batch_tokens)
        ways = ways_of(contest, "bcde" if plain else chosen.without)
        if plain:
            ways += float32_ways(Contest(plain, file, folder, chosen.batch_tokens))
        return Bench(ways, {"one at a time": n_slow, "batched": n_batched}), contest

    bench_of(warm, 4, 4)[0].round(0)
    bench, contest = bench_of(texts, chosen.texts_slow or n_texts, chosen.texts_batched or n_texts)
    if device.type == "cuda":  # takes its memory once
        bench.round(0)
        bench = Bench(bench.ways, bench.n_texts)
    for turn in range(chosen.rounds):
        bench.round(turn)
        print(f"round {turn + 1}: {bench.rounds[-1]}", file=sys.stderr, flush=True)
    return results(bench, contest, loading_s)


def main() -> None:
    """Run the benchmark and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(SHAPES), default="gemma3-270m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "mixed"], default="float32")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--texts", type=int, help="512, or 1,400 for gemma3-4b")
    parser.add_argument("--texts-slow", type=int, help="texts a round for (b) and (c), all without it")
    parser.add_argument("--texts-batched", type=int, help="texts a round for (d) and (e), all without it")
    parser.add_argument("--batch-tokens", default="auto")
    parser.add_argument("--without", default="", help="letters of the ways left out, for example ce")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="capture", help="name of the two files in bench/results")
    chosen = parser.parse_args()
    set_quiet(True)
    torch.set_num_threads(chosen.threads)
    with tempfile.TemporaryDirectory() as folder:
        found = run(chosen, Path(folder))
    others = chosen.dtype != "mixed" and not {"c", "e"} <= set(chosen.without)
    document = {
        "command": " ".join(["python -m bench.capture", *sys.argv[1:]]),
        "machine": machine(choose_device(chosen.device)),
        "versions": {
            **library_versions(),
            **{name: metadata.version(name) for name in ("nnsight", "nnterp") if others},
        },
        "model": chosen.model,
        "results": found,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{chosen.name}.json").write_text(json.dumps(document, indent=2) + "\n")
    (RESULTS / f"{chosen.name}.md").write_text(page(document))
    print(page(document))


if __name__ == "__main__":
    main()
