"""The residual stream read in the plainest way: one unpadded text, the whole model, one forward hook a block.

Nothing here uses strataprobe, so that it can be held against it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

BLOCKS = {
    "gemma3_text": "model.layers",
    "gemma3": "model.language_model.layers",
    "gemma2": "model.layers",
    "llama": "model.layers",
    "qwen2": "model.layers",
    "qwen3": "model.layers",
    "mistral": "model.layers",
    "gpt2": "transformer.h",
    "gpt_neox": "gpt_neox.layers",
    "bert": "encoder.layer",
}
SUFFIX = "\n\nThe sentiment of this section is"
# Texts of very different lengths, the longest several times the sliding window of the tiny models.
TEXTS = [
    "Yes.",
    "I walked home in the rain and the light was still on when I came round the corner of our street.",
    "It rained",
    "  My sister called me about the job, and I could not stop smiling.  ",
    "Nothing worked today; the train was late and the soup was cold.\n",
    "Crème brûlée à 23 h 🙂🎉 – שלום, עולם! مرحبا",
    "We sat by the window for an hour. " * 6,
    "x",
]


class Plain(NamedTuple):
    """``layers[k]`` (T, D) for k = 0..L, the logits (T, V) or None, the token ids, and the text's own positions."""

    layers: list[np.ndarray]
    logits: np.ndarray | None
    normed: np.ndarray
    ids: list[int]
    own: list[int]
    last: int

    def vector(self, readout: str, layer: int) -> np.ndarray:
        """(D,) of one readout."""
        if readout == "mean" or layer == 0:
            return self.layers[layer][self.own].astype(np.float64).mean(axis=0)
        return self.layers[layer][self.last if readout == "last" else self.own[-1]]


def read(model: Any, tokenizer: Any, family: str, text: str, suffix: str = "", prefix: str = "") -> Plain:
    """One text through the whole model, with every block's output kept by a hook of its own."""
    encoded = tokenizer(prefix + text + suffix, return_offsets_mapping=True, return_special_tokens_mask=True)
    ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
    inside = range(len(prefix), len(prefix) + len(text))
    own = [i for i, (start, _) in enumerate(encoded["offset_mapping"]) if start in inside and not special[i]]
    last = max(i for i in range(len(ids)) if not special[i])
    kept: list[torch.Tensor] = []
    handles = [
        block.register_forward_hook(lambda _m, _a, out: kept.append(out[0] if isinstance(out, tuple) else out))
        for block in model.get_submodule(BLOCKS[family])
    ]
    try:
        with torch.no_grad():
            output = model(input_ids=torch.tensor([ids]), output_hidden_states=True)
    finally:
        for handle in handles:
            handle.remove()
    stream = [output.hidden_states[0], *kept]
    logits = output.logits[0].float().numpy() if hasattr(output, "logits") else None
    normed = output.hidden_states[-1][0].float().numpy()
    return Plain([h[0].float().numpy() for h in stream], logits, normed, ids, own, last)


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest distance between matching rows (N, D), relative to the norm of ``theirs``."""
    ours, theirs = np.atleast_2d(ours).astype(np.float64), np.atleast_2d(theirs).astype(np.float64)
    return float((np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)).max())
