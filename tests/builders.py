"""Tiny models of every supported family, built from a config, and a byte-level tokenizer for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SENTENCES = [
    "I walked home in the rain and the light was still on.",
    "My sister called me about the job, and I could not stop smiling.",
    "Nothing worked today; the train was late and the soup was cold.",
    "We sat by the window for an hour without saying a word.",
    "They gave my seat away, so I stood all the way to the coast.",
]
VOCAB_SIZE = 400
WINDOW = 16
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start>{{ m['role'] }}\n{{ m['content'] | trim }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<start>model\n{% endif %}"
)
DECODERS = ("gemma3_text", "gemma3", "gemma2", "llama", "qwen2", "mistral", "gpt2", "gpt_neox")
FAMILIES = (*DECODERS, "bert")


def tiny_tokenizer(kind: str = "bos") -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: "bos" adds one at the front, "none" adds nothing, "bert" wraps in [CLS] and [SEP]."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<bos>", "<eos>", "[CLS]", "[SEP]"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    ids = {name: tokenizer.token_to_id(name) for name in special}
    extra: dict[str, str] = {}
    if kind == "bos":
        front = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", ids["<bos>"])])
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), front])
        extra = {"bos_token": "<bos>", "eos_token": "<eos>"}
    elif kind == "bert":
        both = [("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
        wrap = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=both)
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), wrap])
        extra = {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        extra = {"eos_token": "<eos>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", **extra)
    if kind == "bos":
        fast.chat_template = CHAT_TEMPLATE
    return fast


def tiny_model(family: str, n_layers: int = 3, seed: int = 0, width: int = 32, **more: Any) -> tuple[Any, Any]:
    """(model, tokenizer) of a family, random weights, on CPU in float32. Gemma's window is shorter than most texts."""
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 4,
        "max_position_embeddings": 2048,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    grouped = {**sizes, "num_key_value_heads": 2, "head_dim": width // 4}
    model: Any
    if family == "gemma3_text":
        model = Gemma3ForCausalLM(Gemma3TextConfig(**{**grouped, "sliding_window": WINDOW, **more}))
    elif family == "gemma3":
        vision = {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": n_layers,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        }
        text = {**grouped, "sliding_window": WINDOW, **more}
        model = Gemma3ForConditionalGeneration(
            Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
        )
    elif family == "gemma2":
        model = Gemma2ForCausalLM(Gemma2Config(**{**grouped, "sliding_window": WINDOW, **more}))
    elif family == "llama":
        model = LlamaForCausalLM(LlamaConfig(**{**grouped, **more}))
    elif family == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**{**grouped, **more}))
    elif family == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**{**grouped, **more}))
    elif family == "mistral":
        model = MistralForCausalLM(MistralConfig(**{**grouped, "sliding_window": WINDOW, **more}))
    elif family == "gpt_neox":
        model = GPTNeoXForCausalLM(GPTNeoXConfig(**{**sizes, **more}))
    elif family == "gpt2":
        ours = {"n_embd": width, "n_layer": n_layers, "n_head": 4, "n_positions": 2048, "vocab_size": VOCAB_SIZE}
        model = GPT2LMHeadModel(GPT2Config(**{**ours, "bos_token_id": 2, "eos_token_id": 2, **more}))
    else:
        model = BertModel(BertConfig(**{**sizes, "max_position_embeddings": 512, **more}))
    kinds = {"gpt2": "none", "gpt_neox": "none", "qwen2": "none", "qwen3": "none", "bert": "bert"}
    return model.eval(), tiny_tokenizer(kinds.get(family, "bos"))


def save_model(folder: Path, family: str, n_layers: int = 3, seed: int = 0, **more: Any) -> Path:
    """Write a tiny model and its tokenizer to a folder that ``--model`` takes."""
    model, tokenizer = tiny_model(family, n_layers, seed, **more)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
