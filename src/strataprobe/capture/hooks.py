"""Forward hooks on a model's blocks. They always come off, and nothing above the highest layer asked for is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from strataprobe.errors import ModelError
from strataprobe.models import LoadedModel

Receiver = Callable[[int, Tensor], None]


class _Enough(Exception):
    """Raised inside the highest block's hook to end the pass there."""


def hidden_of(output: Any, shape: tuple[int, int]) -> Tensor:
    """The residual stream (B, T, D) in a block's output, which is a tensor or a tuple that begins with one.

    Raises ModelError when its first two axes are not ``shape``, (B, T).
    """
    hidden = output[0] if isinstance(output, tuple) else output
    found = tuple(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
    if not isinstance(hidden, Tensor) or hidden.ndim != 3 or tuple(hidden.shape[:2]) != shape:
        raise ModelError(
            f"a block of this model gives {found} where a residual stream of shape ({shape[0]}, {shape[1]}, D) was "
            "expected: models of this kind cannot be read."
        )
    return hidden


def run_layers(model: LoadedModel, ids: Tensor, mask: Tensor | None, layers: Sequence[int], receive: Receiver) -> None:
    """Run one batch of token ids (B, T) and hand each layer's raw output (B, T, D) to ``receive(layer, hidden)``.

    Layer 0 is what enters the first block. ``mask`` (B, T) is 1 on real tokens; None for causal models padded on the
    right, whose real tokens never see the padding. Layers arrive in ascending order; the pass ends after the highest.

    Raises ModelError for a model that leaves out one of their blocks, or runs it more than once.
    """
    highest = max(layers)
    arrived: list[int] = []
    shape = (int(ids.shape[0]), int(ids.shape[1]))
    handles = []

    def after(layer: int) -> Callable[..., None]:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            arrived.append(layer)
            receive(layer, hidden_of(output, shape))
            if layer == highest:
                raise _Enough

        return hook

    def before(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arrived.append(0)
        receive(0, hidden_of(args[0] if args else kwargs["hidden_states"], shape))
        if highest == 0:
            raise _Enough

    try:
        if 0 in layers:
            handles.append(model.blocks[0].register_forward_pre_hook(before, with_kwargs=True))
        for layer in sorted(set(layers) - {0}):
            handles.append(model.blocks[layer - 1].register_forward_hook(after(layer)))
        extra = {"use_cache": False} if model.kind == "decoder" else {}
        with torch.inference_mode(), suppress(_Enough):
            model.body(input_ids=ids, attention_mask=mask, **extra)
    finally:
        for handle in handles:
            handle.remove()
    if arrived != sorted(set(layers)):
        raise ModelError(
            f"layers {arrived} of this model ran where {sorted(set(layers))} were asked for: models that leave out blocks "
            "or run them again cannot be read."
        )
