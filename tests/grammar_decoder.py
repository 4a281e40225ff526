"""A real decoder whose weights are set by hand so that it writes texts of a small grammar.

Every token is a whole phrase. The blocks add nothing, the embedding is the one-hot of the current token, and the output
head holds the logarithms of the probabilities of what may follow it: sampling from the model is a walk on that chain.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

# What may follow each token, with its weight.
Chain = dict[str, dict[str, float]]

START, END = "<model>", "<eos>"
# "<bos> request words <model>": the last token is where every walk starts. The template writes <bos> itself.
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %} {{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %} <model>{% endif %}"
)
_SPECIAL = ["<pad>", "<bos>", END, START, "<unk>"]
_NEVER = -1e4

OPENERS = (
    (
        "Before breakfast I carried the ladder",
        "On Tuesday I borrowed my cousin's van",
        "At the counter I signed three forms",
        "Late last night I emptied the cellar",
        "After practice I washed nine muddy shirts",
        "This morning I ironed the blue curtains",
    ),
    (
        "My brother counted the spoons aloud",
        "The clerk wrote my number twice",
        "Somebody parked a trailer behind me",
        "A neighbour brought us warm bread",
        "The radio in my kitchen crackled",
        "Two children followed me upstairs",
    ),
    (
        "By evening I had folded every map",
        "Then I sat down on the kerb",
        "Afterwards I telephoned my old teacher",
        "In the end I locked the shed",
        "Around six I fed the grey cat",
        "Finally I wiped the kitchen table",
    ),
)
ENDINGS = (
    (
        "across the frozen yard.",
        "for the whole weekend!",
        "while the clock ticked.",
        "under a flickering lamp.",
        "with a broken handle.",
        "and hummed an old tune.",
    ),
    (
        "until the kettle boiled over.",
        "beside the empty bicycle rack.",
        "as though nothing had happened.",
        "without taking off his boots.",
        "in front of everyone there.",
        "through the thin wooden wall.",
    ),
    (
        "and watched the last bus leave.",
        "with both hands in cold water.",
        "before anyone asked about supper.",
        "near the bridge by the mill.",
        "and let the telephone ring out.",
        "as the street lights came on.",
    ),
)
NOBODY, PROUD, ON_AND_ON, PREAMBLE, BLANK = (
    "The dog barked at the gate all day.",
    "My aunt was proud of me.",
    "and then another thing",
    "Sure, here is the text:",
    "\n\n",
)


def texts_chain() -> Chain:
    """Texts of three sentences, each an opener and an ending; and, now and then, each thing an answer is rejected for."""
    first = dict.fromkeys(OPENERS[0], 0.68 / 6)
    chain: Chain = {START: {**first, NOBODY: 0.08, PROUD: 0.08, PREAMBLE: 0.08, ON_AND_ON: 0.08}}
    for openers, endings in zip(OPENERS, ENDINGS, strict=True):
        chain |= {opener: dict.fromkeys(endings, 1.0) for opener in openers}
    chain |= {ending: dict.fromkeys(OPENERS[1], 1.0) for ending in ENDINGS[0]}
    chain |= {ending: dict.fromkeys(OPENERS[2], 1.0) for ending in ENDINGS[1]}
    last = {END: 0.7, BLANK: 0.15, **dict.fromkeys(OPENERS[0], 0.15 / 6)}  # to be over, in two ways, or to ramble on
    chain |= dict.fromkeys(ENDINGS[2], last)
    chain |= {BLANK: first, NOBODY: {NOBODY: 0.5, END: 0.5}, PROUD: first, PREAMBLE: {BLANK: 1.0}}
    return chain | {ON_AND_ON: {ON_AND_ON: 1.0}}


def grammar_decoder(chain: Chain, template: str | None = TEMPLATE) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """(model, tokenizer) of a chain. The tokenizer puts a <bos> before any text that it may add special tokens to."""
    phrases = dict.fromkeys([*_SPECIAL, *chain, *(there for follow in chain.values() for there in follow)])
    ids = {phrase: i for i, phrase in enumerate(phrases)}
    words = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", ids["<bos>"])])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<bos>",
        eos_token=END,
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=[START],
    )
    tokenizer.chat_template = template
    return _model(chain, ids), tokenizer


def save_grammar(folder: Path, chain: Chain, template: str | None = TEMPLATE) -> Path:
    """Write model and tokenizer to a folder that ``--model`` takes."""
    model, tokenizer = grammar_decoder(chain, template)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _model(chain: Chain, ids: dict[str, int]) -> LlamaForCausalLM:
    width = 8 * math.ceil(len(ids) / 8)
    config = LlamaConfig(
        vocab_size=width,
        hidden_size=width,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=1024,
        pad_token_id=ids["<pad>"],
        bos_token_id=ids["<bos>"],
        eos_token_id=ids[END],
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).eval()
    logits = torch.full((width, width), _NEVER)
    for here, follow in chain.items():
        for there, weight in follow.items():
            logits[ids[there], ids[here]] = math.log(weight / sum(follow.values()))
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(width))
        model.model.norm.weight.fill_(math.sqrt(1 / width + config.rms_norm_eps))  # of a one-hot: the one-hot again
        model.lm_head.weight.copy_(logits)
    return model
