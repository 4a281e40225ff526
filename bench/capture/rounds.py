"""The ways in rounds: each run once a round, timed, and its vectors held against ours."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch

from bench.capture.contestants import BEFORE_TOKENS, NNTERP_BATCH, Contest, Layers, Picked
from bench.capture.device import synchronize

STAGE, FLOOR = "strataprobe", "(a) floor: bare body, our batches"
WHOLE_STAGE = "strataprobe, from the file of texts"
# largest difference from ours, relative to the vector's norm
TOLERANCE = {"float32": 1e-4, "bfloat16": 6e-2, "mixed": 1e-2}


class Way(NamedTuple):
    """One way of reading: ``run`` gets the texts picked for it and gives layers, or None.

    ``share`` names how many those are: all, those of the ways that read one text at a time, or of the batched ones.
    ``normed``: its last layer lies behind the final norm.
    """

    name: str
    contest: Contest
    run: Callable[[Picked], Layers | None]
    share: Literal["all", "one at a time", "batched"] = "all"
    normed: bool = False


def ways_of(contest: Contest, without: str) -> list[Way]:
    """Ours, the floor and, but for those named by their letters in ``without``, the others."""
    out = contest.folder / "activations"

    def stage(_: Picked) -> None:
        contest.stage(out)

    def floor(_: Picked) -> None:
        contest.floor()

    others = [
        Way("(b) hidden_states, one text at a time", contest, lambda p: contest.alone(p, False), "one at a time", True),
        Way("(b) the same, body only", contest, lambda p: contest.alone(p, True), "one at a time", True),
        Way("(c) nnsight trace, one text at a time", contest, lambda p: contest.nnsight(p, False), "one at a time"),
        Way("(c) the same, body only", contest, lambda p: contest.nnsight(p, True), "one at a time"),
        Way("(d) hidden_states, our batches", contest, contest.sorted_batches, "batched", True),
        Way(f"(e) nnterp, batches of {NNTERP_BATCH}", contest, contest.nnterp, "batched"),
    ]
    ours = [
        Way(FLOOR, contest, floor),
        Way(STAGE, contest, stage),
    ]
    return ours + [way for way in others if way.name[1] not in without]


def float32_ways(contest: Contest) -> list[Way]:
    """What the mixed mode is held against: the same weights in float32."""

    def floor(_: Picked) -> None:
        contest.floor()

    return [
        Way("float32: bare body, our batches", contest, floor),
        Way("float32: strataprobe, reading only", contest, lambda _: contest.read()),
    ]


class Bench:
    """Times the ways round by round, and keeps what each took and how far its vectors were from ours."""

    def __init__(self, ways: Sequence[Way], n_texts: dict[str, int]) -> None:
        self.ways, self.n_texts = list(ways), n_texts
        self.rounds: list[dict[str, float]] = []
        self.cpu_rounds: list[dict[str, float]] = []
        self.parts: list[dict[str, tuple[float, float]]] = []
        self.gaps: dict[str, float] = {}
        self.peaks_bytes: dict[str, int] = {}

    def round(self, turn: int) -> None:
        """Every way once, on all texts or on those picked for it in this round."""
        rng = np.random.default_rng(turn)
        took_s: dict[str, float] = {}
        cpu_s: dict[str, float] = {}
        found: dict[str, tuple[Picked, Layers | None]] = {}
        for way in self.ways if turn % 2 == 0 else reversed(self.ways):
            contest, device = way.contest, way.contest.model.device
            picked, scale = contest.everything, 1.0
            n_texts = self.n_texts.get(way.share, len(picked))
            if n_texts < len(picked):
                picked = np.sort(rng.choice(picked, n_texts, replace=False))
                scale = float(contest.lengths.sum() / contest.lengths[picked].sum())
            gc.collect()
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            synchronize(device)
            started_s, started_cpu_s = time.perf_counter(), time.process_time()
            layers = way.run(picked)
            synchronize(device)
            took_s[way.name] = (time.perf_counter() - started_s) * scale
            cpu_s[way.name] = (time.process_time() - started_cpu_s) * scale
            if device.type == "cuda":
                self.peaks_bytes[way.name] = torch.cuda.max_memory_allocated(device)
            if way.name == STAGE:
                timers = contest.timers
                before_s = sum(timers.here_s[name] for name in BEFORE_TOKENS)
                took_s[WHOLE_STAGE], took_s[STAGE] = took_s[STAGE], took_s[STAGE] - before_s
                self.parts.append({name: (timers.here_s[name], timers.beside_s[name]) for name in timers.here_s})
                layers = contest.files(contest.folder / "activations")
            found[way.name] = (picked, layers)
        self.rounds.append(took_s)
        self.cpu_rounds.append(cpu_s)
        self._compare(found)

    def _compare(self, found: dict[str, tuple[Picked, Layers | None]]) -> None:
        for way in self.ways:
            picked, theirs = found[way.name]
            _, ours = found[STAGE]  # as the files hold them
            if theirs is None or ours is None or way.name == STAGE:
                continue
            gaps = []
            for layer, vectors in theirs.items():
                mine = ours[layer][picked]
                if way.normed and layer == len(ours):
                    mine = way.contest.normed(mine)
                norms = np.linalg.norm(mine, axis=1)
                gaps.append((np.linalg.norm(vectors - mine, axis=1) / norms).max())
            gap = float(np.max(gaps))  # NaN where any is
            self.gaps[way.name] = max(gap, self.gaps.get(way.name, 0.0))
            assert gap <= TOLERANCE[self.ways[0].contest.model.dtype], f"{way.name} differs by {gap:.1e} of the norm"
