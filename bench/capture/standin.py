"""Gemma 3 with random weights, a byte-level tokenizer whose texts have the lengths asked for, and a file of such texts."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

SPECIAL = {"<pad>": 0, "<bos>": 1, "<eos>": 2}
N_WORDS = 20_000
SHAPES: dict[str, dict[str, int]] = {
    "tiny": {
        "vocab_size": 8192,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "sliding_window": 64,
    },
    "gemma3-270m": {
        "vocab_size": 262_144,
        "hidden_size": 640,
        "intermediate_size": 2048,
        "num_hidden_layers": 18,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "sliding_window": 512,
    },
    "gemma3-4b": {
        "vocab_size": 262_208,
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 1024,
    },
}


def words_of(vocab_size: int) -> list[str]:
    """Made-up words of letters alone, each one token of ``tokenizer_of(vocab_size)``."""
    letters, rng = "abcdefghijklmnopqrstuvwxyz", random.Random(0)
    words: dict[str, None] = {}
    while len(words) < min(N_WORDS, vocab_size // 4):
        words["".join(rng.choices(letters, k=6))] = None
    return list(words)


def tokenizer_of(vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that puts a BOS in front; the words of ``words_of`` are one token each, all else bytes."""
    names = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    for word in words_of(vocab_size):
        names += [word, f"\u0120{word}"]
    vocab = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    front = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", SPECIAL["<bos>"])])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), front])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", padding_side="right"
    )


def save_model(folder: Path, shape: dict[str, int], device: torch.device | None = None) -> None:
    """Write Gemma 3's text model of ``shape`` with random weights, and its tokenizer, into a folder that ``--model`` takes.

    Made on ``device``: on CPU (also None) in float32, else in bfloat16, as Gemma is published.
    """
    place = device or torch.device("cpu")
    torch.manual_seed(0)
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = Gemma3TextConfig(**shape, max_position_embeddings=32_768, **ids)
    disable_progress_bar()
    with place:
        model = Gemma3ForCausalLM._from_config(config, dtype=torch.float32 if place.type == "cpu" else torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer_of(shape["vocab_size"]).save_pretrained(folder)


def write_texts(file: Path, vocab_size: int, n_texts: int, fewest: int, most: int, seed: int = 0) -> Path:
    """Labelled, grouped and split texts, JSONL, of ``fewest`` to ``most`` tokens each (uniform, the BOS counted)."""
    words, rng = words_of(vocab_size), random.Random(seed)
    with file.open("w", encoding="utf-8") as lines:
        for i in range(n_texts):
            text = " ".join(rng.choices(words, k=rng.randint(fewest, most) - 1))
            split = ("train", "train", "train", "val", "test")[i // 2 % 5]
            row = {
                "id": f"t{i:06d}",
                "text": text,
                "label": ("no", "yes")[i % 2],
                "split": split,
                "group": f"g{i // 2}",
            }
            lines.write(json.dumps(row) + "\n")
    return file
