"""The ways of reading every layer that are timed: ours, the floor, and what people use otherwise.

All get the same token ids. Ours reads ``last`` and ``mean`` of every layer and the mean of the embeddings; the others keep
``last`` alone. Each returns vectors (n, D) float32 by layer 1..L in the order of the texts picked; the floor keeps nothing.
"""

from __future__ import annotations

import copy
import shutil
import sys
import types
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.capture.timers import Timers
from strataprobe.capture.batches import choose_batch_tokens, padded, plan_batches
from strataprobe.capture.memory import read_vectors
from strataprobe.capture.run import capture_stage
from strataprobe.capture.tokens import PromptForm, Tokenizer
from strataprobe.dataset import read_dataset
from strataprobe.models import LoadedModel
from strataprobe.store import ActivationFolder

Picked = NDArray[np.int64]
Layers = dict[int, NDArray[np.float32]]
NNTERP_BATCH = 16
BEFORE_TOKENS = ("reading the file of texts", "tokenising")
PASSES, INSIDE = "forward passes with the readouts", "of these, the readouts"
# what the parts of the stage are called in the results, and the functions that do them
POINTS = {
    BEFORE_TOKENS[0]: ("strataprobe.capture.run:read_dataset",),
    BEFORE_TOKENS[1]: ("strataprobe.capture.tokens:Tokenizer.rows",),
    PASSES: ("strataprobe.capture.reader:Reader.start",),
    INSIDE: ("strataprobe.capture.positions:Positions.read",),
    "waiting for the writer": (
        "strataprobe.capture.background:BackgroundWriter.put",
        "strataprobe.capture.background:BackgroundWriter.__exit__",
    ),
    "waiting for the copies, checking that all is finite": ("strataprobe.capture.reader:PendingBatch.result",),
    "writing shards": ("strataprobe.capture.shards:ShardFolder.write",),
    "closing into layer files": ("strataprobe.capture.job:close_layers",),
    "texts.jsonl": ("strataprobe.capture.job:write_texts",),
    "checksums, manifest, renaming": ("strataprobe.stagefolder:StageFolder.commit",),
}


class Contest:
    """One model, one file of texts, and the ways to read them."""

    def __init__(self, model: LoadedModel, texts: Path, folder: Path, batch_tokens: int | str = "auto") -> None:
        self.model, self.texts, self.folder = model, texts, folder
        found = read_dataset(texts).rows
        self.ids = [row.id for row in found]
        self.rows = Tokenizer(model, PromptForm()).rows([row.text for row in found])
        self.lengths = np.asarray([len(row.ids) for row in self.rows], dtype=np.int64)
        # chosen once: the memory that is free changes, and everyone is to have the same batches
        self.batch_tokens = choose_batch_tokens(batch_tokens, model)
        self.plan = plan_batches(self.lengths, self.batch_tokens)
        self.everything = np.arange(len(self.rows), dtype=np.int64)
        self.timers = Timers(POINTS)
        self._nnsight: dict[bool, Any] = {}

    @property
    def padding_share(self) -> float:
        """Padding in our plan's batches, as a share of the texts' own tokens."""
        run = sum(len(batch) * int(self.lengths[batch].max()) for batch in self.plan)
        return run / int(self.lengths.sum()) - 1

    @property
    def numbers(self) -> list[int]:
        """Layers 1..L."""
        return list(range(1, self.model.n_layers + 1))

    def stage(self, out: Path) -> None:
        """The whole stage, from the file of texts to closed files in ``out``; ``timers`` holds where the time went."""
        shutil.rmtree(out, ignore_errors=True)
        self.timers = Timers(POINTS)
        with self.timers:
            capture_stage(self.texts, self.model, out, batch_tokens=self.batch_tokens)

    def read(self) -> Layers:
        """Ours without files: from token ids to arrays in memory."""
        arrays = read_vectors(self.model, self.rows, [0, *self.numbers], ["last", "mean"], self.batch_tokens)
        return {layer: arrays["last", layer] for layer in self.numbers}

    def floor(self) -> None:
        """The body alone on the batches of our plan: no hooks, no cache, nothing kept."""
        with torch.inference_mode():
            for batch in self.plan:
                ids, mask = self._padded(batch)
                self.model.body(input_ids=ids, attention_mask=None if self.model.causal else mask, use_cache=False)

    def alone(self, picked: Picked, body_only: bool) -> Layers:
        """One text at a time with ``output_hidden_states``: the causal class as it comes, or its body without a cache."""
        module: Any = self.model.body if body_only else self.model.model
        how = {"use_cache": False} if body_only else {}
        found = []
        with torch.no_grad():
            for i in picked:
                ids, mask = self._padded([i])
                states = module(input_ids=ids, attention_mask=mask, output_hidden_states=True, **how).hidden_states
                found.append(torch.stack([hidden[0, -1] for hidden in states[1:]]).float().cpu())
        return _by_layer(found)

    def sorted_batches(self, picked: Picked) -> Layers:
        """Batches as our plan makes them through the causal class with ``output_hidden_states``."""
        module: Any = self.model.model
        kept = {layer: np.empty((len(picked), self.model.d_model), dtype=np.float32) for layer in self.numbers}
        with torch.no_grad():
            for batch in plan_batches(self.lengths[picked], self.batch_tokens):
                ids, mask = self._padded(picked[batch])
                states = module(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
                row, last = torch.arange(len(ids), device=ids.device), mask.sum(dim=1) - 1
                vectors = torch.stack([hidden[row, last] for hidden in states[1:]]).float().cpu().numpy()
                for layer in self.numbers:
                    kept[layer][batch] = vectors[layer - 1]
        return kept

    def nnsight(self, picked: Picked, body_only: bool) -> Layers:
        """nnsight's trace, one text at a time, each layer's output at the last token saved."""
        import nnsight

        traced = self._traced(body_only)
        layers = traced.layers if body_only else traced.model.layers
        how = {"use_cache": False} if body_only else {}
        found = []
        with torch.no_grad():
            for i in picked:
                ids, _ = self._padded([i])
                with traced.trace(ids, **how):
                    saved = nnsight.save([layer.output[0, -1] for layer in layers])
                found.append(torch.stack(saved).float().cpu())
        return _by_layer(found)

    def nnterp(self, picked: Picked) -> Layers:
        """nnterp's batched collect, which ends the pass after the last layer; texts in file order."""
        with _nnterp_with_this_nnsight():
            from nnterp.nnsight_utils import collect_token_activations_batched
        ids = [self.rows[int(i)].ids.tolist() for i in picked]
        vectors = collect_token_activations_batched(self._traced(body_only=False), ids, NNTERP_BATCH)
        return {layer: vectors[layer - 1].float().numpy() for layer in self.numbers}

    def files(self, out: Path) -> Layers:
        """What ``stage`` wrote, in the order of the texts."""
        folder, place = ActivationFolder.open(out), {name: i for i, name in enumerate(self.ids)}
        kept = {layer: np.full((len(self.ids), self.model.d_model), np.nan, np.float32) for layer in self.numbers}
        for layer in self.numbers:
            for split in ("train", "val", "test"):
                rows = folder.read(layer, split, "last")
                kept[layer][[place[name] for name in rows.ids]] = rows.activations
        return kept

    def normed(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the final norm makes of raw vectors (n, D)."""
        norm: Any = self.model.final_norm
        weight = next(norm.parameters())
        with torch.inference_mode():
            return norm(torch.from_numpy(vectors).to(weight.device, weight.dtype)).float().cpu().numpy()

    def _padded(self, batch: Sequence[int] | Picked) -> tuple[torch.Tensor, torch.Tensor]:
        return padded([self.rows[int(i)] for i in batch], int(self.model.tokenizer.pad_token_id), self.model.device)

    def _traced(self, body_only: bool) -> Any:
        """nnsight's wrapper, on a copy of the modules that shares the weights: it replaces their ``forward``."""
        if body_only not in self._nnsight:
            from nnsight import LanguageModel, NNsight

            module: Any = self.model.body if body_only else self.model.model
            twin = copy.deepcopy(module, {id(p): p for p in [*module.parameters(), *module.buffers()]})
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it calls its own long-standing name deprecated
                made = (
                    NNsight(twin) if body_only else LanguageModel(twin, tokenizer=copy.deepcopy(self.model.tokenizer))
                )
            self._nnsight[body_only] = made
        return self._nnsight[body_only]


@contextmanager
def _nnterp_with_this_nnsight() -> Iterator[None]:
    """nnterp 1.3.0 takes a class for its annotations from where nnsight before 0.8 kept it.

    Its ``StandardizedTransformer`` needs more of the older nnsight; its collect takes nnsight's ``LanguageModel`` as well.
    """
    from nnsight.tracing.hint import Object

    moved = "nnsight.intervention.tracing"
    stand_in: Any = types.ModuleType(f"{moved}.globals")
    stand_in.Object = Object
    names = {moved: types.ModuleType(moved), f"{moved}.globals": stand_in}
    sys.modules.update(names)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def _by_layer(found: Sequence[torch.Tensor]) -> Layers:
    """Vectors (n, D) by layer 1..L from each text's (L, D)."""
    whole = torch.stack(list(found), dim=1).numpy()
    return {k + 1: vectors for k, vectors in enumerate(whole)}
