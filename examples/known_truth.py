"""A decoder with known truth: which layer a concept appears on is decided by hand, so a layer curve can be checked.

The model is an ordinary Llama of the transformers library whose weights are set, not trained:

- Each word's embedding holds its own random features; concept words also hold +1 or -1 along a direction u. A positive
  and a negative word of the same pair share their random features, so these say nothing about the class.
- Every block averages over the positions so far and writes random mixtures of the random features back (distracting
  directions), larger in every block, so that the norm of the residual stream grows by a thousand over 34 blocks.
- One block, and no other, also writes what it finds along u onto another direction w. Up to that block the last position
  knows nothing of the concept; from there on it does. With ``concept_block=None`` no block writes it.

So with ``concept_block=11`` the readout ``last`` is at chance up to layer 11 and steps up at layer 12 (the output of the
block with index 11), while ``mean`` sees the words themselves on every layer.

    python examples/known_truth.py --out outputs/known-truth
    strataprobe run --data outputs/known-truth/texts.jsonl --model outputs/known-truth/model --out outputs/known-truth/run
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

N_NEUTRAL, N_PAIRS = 60, 30
N_FEATURES = 32
GROWTH = 1.5


def words() -> tuple[list[str], list[str], list[str]]:
    """Neutral, positive and negative words of the little language; pairs have the same number."""
    neutral = [f"word{i}" for i in range(N_NEUTRAL)]
    return neutral, [f"good{i}" for i in range(N_PAIRS)], [f"bad{i}" for i in range(N_PAIRS)]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, a BOS in front."""
    names = ["<pad>", "<bos>", "<unk>", ".", *(w for group in words() for w in group)]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", unk_token="<unk>")


def build_model(concept_block: int | None = 11, n_layers: int = 34, width: int = 96, seed: int = 0) -> LlamaForCausalLM:
    """The decoder; ``concept_block`` is the 0-based index of the block that writes the concept, None for no block."""
    neutral, positive, negative = words()
    config = LlamaConfig(
        vocab_size=4 + N_NEUTRAL + 2 * N_PAIRS,
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=n_layers,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=width,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    dice = torch.Generator().manual_seed(seed)
    u, w, features, distract = 0, 1, slice(2, 2 + N_FEATURES), slice(2 + N_FEATURES, width)
    with torch.no_grad():
        table = model.model.embed_tokens.weight.zero_()
        table[:, features] = torch.randn(table.shape[0], N_FEATURES, generator=dice)
        first = 4 + len(neutral)
        table[first + len(positive) :, features] = table[first : first + len(positive), features]
        table[first : first + len(positive), u] = 1.0
        table[first + len(positive) : first + len(positive) + len(negative), u] = -1.0
        for index, block in enumerate(model.model.layers):
            size = GROWTH**index
            attention, mlp = block.self_attn, block.mlp
            attention.q_proj.weight.zero_()
            attention.k_proj.weight.zero_()
            attention.v_proj.weight.copy_(torch.eye(width))
            out = attention.o_proj.weight.zero_()
            out[distract, features] = size * torch.randn(width - 2 - N_FEATURES, N_FEATURES, generator=dice)
            out[w, features] = 0.2 * torch.randn(N_FEATURES, generator=dice)
            if index == concept_block:
                # the norm before the block shrinks u as the stream grows; writing undoes that
                out[w, u] = 30.0 * size
            for part in (mlp.gate_proj, mlp.up_proj, mlp.down_proj):
                part.weight.zero_()
            mlp.gate_proj.weight[:, features] = torch.randn(width, N_FEATURES, generator=dice)
            mlp.up_proj.weight[:, features] = torch.randn(width, N_FEATURES, generator=dice)
            mlp.down_proj.weight[distract] = 0.1 * size * torch.randn(width - 2 - N_FEATURES, width, generator=dice)
    return model


def texts(n: int = 1000, seed: int = 0) -> list[dict[str, str]]:
    """Texts of the little language: more words of one side than of the other; half of the ``n`` are positive."""
    dice = random.Random(seed)
    neutral, positive, negative = words()
    rows = []
    for i in range(n):
        label = "positive" if i % 2 else "negative"
        mine, other = (positive, negative) if label == "positive" else (negative, positive)
        chosen = dice.choices(neutral, k=dice.randint(8, 16)) + dice.choices(mine, k=4) + dice.choices(other, k=1)
        dice.shuffle(chosen)
        rows.append({"text": " ".join([*chosen, "."]), "label": label})
    return rows


def write(folder: Path, concept_block: int | None = 11, n_layers: int = 34, n_texts: int = 1000, seed: int = 0) -> None:
    """Write ``folder/model`` and ``folder/texts.jsonl``."""
    folder.mkdir(parents=True, exist_ok=True)
    build_model(concept_block, n_layers, seed=seed).save_pretrained(folder / "model")
    build_tokenizer().save_pretrained(folder / "model")
    lines = (json.dumps(row) for row in texts(n_texts, seed))
    (folder / "texts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Command line of the example."""
    parser = argparse.ArgumentParser(
        description="Write a model whose concept appears at a known layer, and texts for it."
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--concept-block", type=int, default=11, help="0-based block that writes the concept; -1: none")
    parser.add_argument("--layers", type=int, default=34)
    parser.add_argument("--texts", type=int, default=1000)
    asked = parser.parse_args()
    write(asked.out, None if asked.concept_block < 0 else asked.concept_block, asked.layers, asked.texts)
    print(f"{asked.out / 'model'} and {asked.out / 'texts.jsonl'} are written")


if __name__ == "__main__":
    main()
