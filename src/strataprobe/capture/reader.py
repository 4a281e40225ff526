"""Read batches of tokenised texts: every layer and readout asked for, in one forward pass a batch.

``Reader.start`` issues the pass and the copies to the host; ``PendingBatch.result`` waits for them, where a GPU may be
at the next batch already. A batch that does not fit into memory is read in halves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strataprobe.capture.batches import padded
from strataprobe.capture.hooks import run_layers
from strataprobe.capture.positions import Positions
from strataprobe.capture.tokens import TokenRow
from strataprobe.errors import ModelError, NonFiniteError
from strataprobe.modelerrors import give_back_memory, is_out_of_memory
from strataprobe.models import LoadedModel
from strataprobe.progress import note

FloatArray = NDArray[np.float32]
Vectors = dict[tuple[str, int], FloatArray]

# kinds of blocks beside the readouts
_CLASS_WORDS = "class words"
_TOKENS = "tokens"


@dataclass
class BatchResult:
    """What was read of B texts, in their order.

    ``vectors`` (B, D) float32 by (readout, layer); ``zero_shot`` (B, C) float32, the class words' logits, or None;
    ``tokens`` (sum of the texts' T, D) float32 by layer, where every token is kept.
    """

    vectors: Vectors = field(default_factory=dict)
    zero_shot: FloatArray | None = None
    tokens: dict[int, FloatArray] = field(default_factory=dict)


class _Block(NamedTuple):
    """Arrays of one kind, (n, rows, D) float32, one for each layer, and the sum of each, (n,): finite if all of it is."""

    layers: list[int]
    values: Tensor
    sums: Tensor


class _Part(NamedTuple):
    """One forward pass over some rows of a batch: blocks by readout on the host, and the event after the copies."""

    names: Sequence[str]
    lengths: list[int]
    blocks: dict[str, _Block]
    copied: torch.cuda.Event | None


class PendingBatch:
    """A batch on its way to the host. ``result`` may be called from another thread than ``start``."""

    def __init__(self, model: LoadedModel, parts: list[_Part]) -> None:
        self._model, self._parts = model, parts

    def result(self) -> BatchResult:
        """Wait for the copies. Raises NonFiniteError naming layer and text where a value is not finite."""
        for part in self._parts:
            if part.copied is not None:
                part.copied.synchronize()
            self._refuse_non_finite(part)
        result = BatchResult()
        for kind, block in self._parts[0].blocks.items():
            for i, layer in enumerate(block.layers):
                arrays = [part.blocks[kind].values[i].numpy() for part in self._parts]
                array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
                if kind == _CLASS_WORDS:
                    result.zero_shot = array
                elif kind == _TOKENS:
                    result.tokens[layer] = array
                else:
                    result.vectors[kind, layer] = array
        return result

    def _refuse_non_finite(self, part: _Part) -> None:
        suspects = [
            (layer, kind, block.values[i])
            for kind, block in part.blocks.items()
            for i, (layer, total) in enumerate(zip(block.layers, block.sums.tolist(), strict=True))
            if not np.isfinite(total)
        ]
        for layer, kind, values in sorted(suspects, key=lambda suspect: suspect[0]):
            bad = np.flatnonzero(~np.isfinite(values.numpy()).all(axis=1))
            if not len(bad):
                continue  # each value is finite, and only their sum is not
            row = int(bad[0])
            if kind == _TOKENS:
                row = int(np.searchsorted(np.cumsum(part.lengths), row, side="right"))
            model = self._model
            advice = (
                "its weights are broken, run 'strataprobe check'" if model.dtype == "float32" else "use --dtype float32"
            )
            raise NonFiniteError(
                f"layer {layer} ({kind}) of {model.identity.name} is not finite for {part.names[row]} in "
                f"{model.dtype}: {advice}."
            )


class Reader:
    """Reads one model at given layers and readouts. Layer 0 gives the mean over the text's own tokens.

    ``class_token_ids`` (C,) asks for the class words' logits too, ``keep_tokens`` for every token's vector at each layer.
    ``naming`` is how a text's name is written in messages.
    ``batch_limit`` is how many tokens, padding counted, one pass may hold: None until memory runs out, and to be set by who
    knows it from before. ``n_splits`` counts how often a batch was halved.
    """

    def __init__(
        self,
        model: LoadedModel,
        layers: Sequence[int],
        readouts: Sequence[str],
        class_token_ids: Sequence[int] | None = None,
        *,
        keep_tokens: bool = False,
        naming: str = "text {!r}",
    ) -> None:
        self.model, self.layers, self.readouts = model, sorted(set(layers)), tuple(readouts)
        self.batch_limit: int | None = None
        self.n_splits = 0
        self._class_token_ids = list(class_token_ids or ())
        self._class_rows: tuple[Tensor, Tensor | None] | None = None
        self._naming = naming
        self._pad_id = _pad_id(model)
        self._copies: torch.cuda.Stream | None = None
        blocks = [layer for layer in self.layers if layer > 0]
        self._kinds = {readout: blocks for readout in self.readouts if blocks}
        if 0 in self.layers:
            self._kinds["mean"] = [0, *self._kinds.get("mean", ())]
        if keep_tokens:
            self._kinds[_TOKENS] = self.layers
        if self.reads_class_words:
            self._kinds[_CLASS_WORDS] = [model.n_layers]

    @property
    def reads_class_words(self) -> bool:
        """Whether the class words' logits are read too: they need the last layer, the final norm and the head."""
        whole = self.model.n_layers in self.layers and self.model.head is not None and self.model.final_norm is not None
        return bool(self._class_token_ids) and whole

    def read(self, rows: Sequence[TokenRow], names: Sequence[str]) -> BatchResult:
        """Read B rows and wait for them. Raises what ``start`` and ``PendingBatch.result`` raise."""
        return self.start(rows, names).result()

    def start(self, rows: Sequence[TokenRow], names: Sequence[str]) -> PendingBatch:
        """Issue the forward pass over B rows and the copies to the host; on a CPU both are done when this returns.

        Where memory runs out the rows are read in halves, and ``batch_limit`` falls to the half, for later batches too.
        ``names`` name the texts in messages. Raises ModelError for a single text that does not fit.
        """
        model, todo = self.model, [slice(0, len(rows))]
        names = [self._naming.format(name) for name in names]
        parts: list[_Part] = []
        while todo:
            piece = todo.pop(0)
            n_rows, longest = piece.stop - piece.start, max(len(row.ids) for row in rows[piece])
            middle = piece.start + (n_rows + 1) // 2
            halves = [slice(piece.start, middle), slice(middle, piece.stop)]
            if self.batch_limit is not None and n_rows > 1 and n_rows * longest > self.batch_limit:
                todo[:0] = halves
                continue
            part = self._tried(rows[piece], names[piece])
            if part is not None:
                parts.append(part)
                continue
            give_back_memory(model.device)
            if n_rows == 1:
                dtype = ", --dtype bfloat16" if model.dtype == "float32" else ""
                raise ModelError(
                    f"{names[piece.start]} ({longest:,} tokens) does not fit into the memory of {model.device} even "
                    f"alone: use --max-tokens{dtype} or a smaller model."
                )
            todo[:0] = halves
            self.n_splits += 1
            self.batch_limit = (middle - piece.start) * longest
            note(
                f"capture: out of memory with {n_rows * longest:,} tokens in a batch; going on with {self.batch_limit:,}."
            )
        return PendingBatch(model, parts)

    def _tried(self, rows: Sequence[TokenRow], names: Sequence[str]) -> _Part | None:
        """One pass over the rows; None where it does not fit into memory, with nothing kept of it."""
        try:
            return self._pass(rows, names)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _pass(self, rows: Sequence[TokenRow], names: Sequence[str]) -> _Part:
        model = self.model
        ids, mask = padded(rows, self._pad_id, model.device)
        positions = Positions(rows, model.device)
        lengths = [len(row.ids) for row in rows]
        shapes = {_TOKENS: (sum(lengths), model.d_model), _CLASS_WORDS: (len(rows), len(self._class_token_ids))}
        kept = {
            kind: torch.empty(
                (len(layers), *shapes.get(kind, (len(rows), model.d_model))), dtype=torch.float32, device=model.device
            )
            for kind, layers in self._kinds.items()
        }

        def receive(layer: int, hidden: Tensor) -> None:
            for kind, layers in self._kinds.items():
                if layer not in layers:
                    continue
                if kind == _TOKENS:
                    values = positions.tokens(hidden)
                elif kind == _CLASS_WORDS:
                    values = self._class_words(positions.last(hidden))
                else:
                    values = positions.read(kind, hidden)
                kept[kind][layers.index(layer)] = values

        run_layers(model, ids, None if model.causal else mask, self.layers, receive)
        blocks = {kind: _Block(self._kinds[kind], values, values.sum((1, 2))) for kind, values in kept.items()}
        return _Part(names, lengths, *self._to_host(blocks))

    def _to_host(self, blocks: dict[str, _Block]) -> tuple[dict[str, _Block], torch.cuda.Event | None]:
        """The blocks on the host, complete once the event has come: a GPU copies them beside the next pass."""
        device = self.model.device
        if device.type != "cuda":
            return {kind: _Block(b.layers, b.values.cpu(), b.sums.cpu()) for kind, b in blocks.items()}, None
        if self._copies is None:
            self._copies = torch.cuda.Stream(device)
        self._copies.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._copies):
            held = {kind: _Block(b.layers, _copied(b.values), _copied(b.sums)) for kind, b in blocks.items()}
            return held, self._copies.record_event()

    def _class_words(self, last: Tensor) -> Tensor:
        """Logits (B, C) float32 of the class words at the last position, from the final norm and their rows of the head."""
        head, norm = self.model.head, self.model.final_norm
        assert head is not None
        assert norm is not None
        normed: Tensor = norm(last)
        if self._class_rows is None:  # kept: sending the index to a GPU would wait for the pass
            index, bias = self._class_token_ids, getattr(head, "bias", None)
            rows = head.weight[index].to(normed.dtype).float()  # type: ignore[index]
            self._class_rows = rows, None if bias is None else bias[index].float()
        rows, bias = self._class_rows
        logits = normed.float() @ rows.T
        if bias is not None:
            logits = logits + bias
        cap = self.model.logit_softcap
        return torch.tanh(logits / cap) * cap if cap else logits


def _copied(values: Tensor) -> Tensor:
    """Pinned memory of the host that a GPU is copying ``values`` into, on the current stream."""
    held = torch.empty(values.shape, dtype=values.dtype, device="cpu", pin_memory=True)
    held.copy_(values, non_blocking=True)
    values.record_stream(torch.cuda.current_stream(values.device))
    return held


def _pad_id(model: LoadedModel) -> int:
    """What stands in the padding: any token that the model knows; a tokenizer may have a padding token that it does not."""
    n_known = int(model.body.config.get_text_config().vocab_size)  # type: ignore[union-attr, operator]
    tokenizer = model.tokenizer
    return next(int(i) for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None and i < n_known)


@contextmanager
def evaluation_mode(model: LoadedModel) -> Iterator[None]:
    """Switch dropout off while reading, and restore each module's mode afterwards."""
    training = [m for m in model.model.modules() if m.training]
    model.model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
