"""Answers from a model of the transformers library: prompts to token ids, one batch at a time, and back to text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from strataprobe.errors import BackendError
from strataprobe.generate.backends.stopping import BLANK_LINE, ENDED, Stops, Watch, first_part, token_texts
from strataprobe.generate.prompts import Messages
from strataprobe.mixed import is_mixed
from strataprobe.modelerrors import give_back_memory, is_out_of_memory
from strataprobe.models import LoadedModel

TOP_P = 0.95
CPU_BATCH = 16
_MOST_ROWS = 256
# The share of a GPU's free memory that a batch may be expected to take.
_MEMORY_SHARE = 0.6
# Logits in float32, sorted, with their order and their cumulative sums: bytes for each row and entry of the vocabulary.
_LOGIT_BYTES = 48


@dataclass(frozen=True)
class Answer:
    """What one row became: the text up to where it stopped, its number of new tokens, and whether it came to an end."""

    text: str
    n_tokens: int
    stopped: bool


@dataclass(frozen=True)
class Draw:
    """How a batch is drawn: greedily at temperature 0; at most ``n_new`` tokens and ``most_sentences`` for each row."""

    temperature: float
    n_new: int
    most_sentences: int
    seed: int = 0


class Decoder:
    """A loaded decoder with its tokenizer, neither of which is changed for good."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.name, self.device, self.tokenizer = loaded.identity.name, loaded.device, loaded.tokenizer
        self.max_positions, self.dtype = loaded.max_positions, loaded.dtype
        self._model: Any = loaded.model
        self._end_ids = end_ids(self._model, self.tokenizer)
        self._n_ids = n_logits(self._model)
        pads = [self.tokenizer.pad_token_id, *self._end_ids, 0]
        self._pad_id = next(int(i) for i in pads if i is not None and i < self._n_ids)
        self._texts: list[str] = []
        self._stops: dict[int, Stops] = {}

    def encoded(self, prompts: Sequence[Messages]) -> list[list[int]]:
        """Token ids of each prompt. A chat template writes the special tokens itself, so none are added to it."""
        if not prompts:
            return []
        how = {"padding": False, "truncation": False, "verbose": False}
        if not self.tokenizer.chat_template:
            plain = ["\n\n".join([*(m["content"] for m in prompt), ""]) for prompt in prompts]
            rows = self.tokenizer(plain, **how)["input_ids"]
            return [row[:-1] if row[-1] in self._end_ids else row for row in rows]
        try:
            chats = self.tokenizer.apply_chat_template(
                [list(prompt) for prompt in prompts], tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        except Exception as error:  # whatever a template raises
            why = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise BackendError(f"the chat template of {self.name} cannot be used: {why.rstrip('.')}.") from error
        return list(self.tokenizer(chats, add_special_tokens=False, **how)["input_ids"])

    def automatic_size(self, n_positions: int) -> int:
        """Rows of a batch: fixed on a CPU; on a GPU the power of two whose caches and logits fit into its free memory."""
        if self.device.type != "cuda":
            return CPU_BATCH
        free = torch.cuda.mem_get_info(self.device)[0]
        free += torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        rows = int(free * _MEMORY_SHARE) // row_bytes(self._model, n_positions)
        return min(1 << max(rows.bit_length() - 1, 0), _MOST_ROWS)

    def generated(self, rows: Sequence[list[int]], draw: Draw) -> list[Answer] | None:
        """The answers of one batch, None when it did not fit into memory.

        Raises BackendError when the model's values are not finite.
        """
        stops = self.stops_at(draw.most_sentences)
        watch = Watch(stops, len(rows))
        ids, mask = left_padded(rows, self._pad_id, self.device)
        try:
            with own_settings(self._model), own_randomness(draw.seed, self.device):
                made = self._model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    generation_config=self.settings(draw),
                    stopping_criteria=[watch],
                )
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                made = None
            elif "probability tensor" in str(error) or "device-side assert" in str(error):
                raise BackendError(
                    f"{self.name} gave values that are not finite in {self.dtype}: use --dtype float32."
                ) from error
            else:
                raise
        if made is None:  # not in the handler, where the error still holds what filled the memory
            give_back_memory(self.device)
            return None
        return self._answers(made[:, ids.shape[1] :].tolist(), watch, stops)

    def settings(self, draw: Draw) -> Any:
        """Generation settings that hold nothing of the model's own but its end tokens."""
        from transformers import GenerationConfig

        drawn = {"do_sample": True, "temperature": float(draw.temperature), "top_p": TOP_P, "top_k": 0}
        return GenerationConfig(
            **(drawn if draw.temperature > 0 else {"do_sample": False}),
            max_new_tokens=draw.n_new,
            use_cache=True,
            eos_token_id=self._end_ids or None,
            pad_token_id=self._pad_id,
        )

    def stops_at(self, most_sentences: int) -> Stops:
        """The rules for stopping, made once for a number of sentences."""
        if most_sentences not in self._stops:
            self._texts = self._texts or token_texts(self.tokenizer)
            self._stops[most_sentences] = Stops(self._texts, self._n_ids, self._end_ids, most_sentences, self.device)
        return self._stops[most_sentences]

    def _answers(self, rows: Sequence[list[int]], watch: Watch, stops: Stops) -> list[Answer]:
        found = []
        for new, n_tokens, state in zip(rows, watch.lengths.tolist(), watch.states.tolist(), strict=True):
            why = stops.reason(state)
            own = new[: n_tokens - (why == ENDED)]
            text = str(self.tokenizer.decode(own, skip_special_tokens=True, clean_up_tokenization_spaces=False))
            found.append(Answer(first_part(text) if why == BLANK_LINE else text, n_tokens, why is not None))
        return found


def end_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every token that ends an answer: by the model's generation settings, its configuration, and its tokenizer."""
    text_config = model.config.get_text_config()
    own = [getattr(model.generation_config, "eos_token_id", None), getattr(text_config, "eos_token_id", None)]
    found: set[int] = set()
    for ids in (*own, tokenizer.eos_token_id):
        found |= set(ids) if isinstance(ids, (list, tuple)) else {ids} - {None}
    return sorted(found)


def n_logits(model: Any) -> int:
    """Number of token ids that the output head knows; a tokenizer may know more or fewer."""
    return int(model.get_output_embeddings().weight.shape[0])


def row_bytes(model: Any, n_positions: int) -> int:
    """About what one row of a batch takes of a GPU's memory: its cache, its logits, and activations of the prompt."""
    config = model.config.get_text_config()
    width = 4 if is_mixed(model) else next(model.parameters()).element_size()
    n_heads = int(config.num_attention_heads)
    head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // n_heads)
    cache = 2 * int(config.num_hidden_layers) * int(getattr(config, "num_key_value_heads", None) or n_heads) * head_dim
    inner = int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    activations = 8 * int(config.hidden_size) + 4 * inner
    return (cache + activations) * width * n_positions + _LOGIT_BYTES * int(config.vocab_size)


def left_padded(rows: Sequence[list[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids, mask), both (B, T) on ``device``: the rows end together, as what is written follows them."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids.to(device), mask.to(device)


@contextmanager
def own_settings(model: Any) -> Iterator[None]:
    """The model in evaluation mode and without generation settings of its own; afterwards both are as they were."""
    from transformers import GenerationConfig

    settings, training = model.generation_config, model.training
    model.generation_config = GenerationConfig()
    model.eval()
    try:
        yield
    finally:
        model.generation_config = settings
        model.train(training)


@contextmanager
def own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers from ``seed`` for the CPU and ``device``; afterwards the generators are as they were."""
    devices = [device] if device.type == "cuda" else []
    mps_state = torch.mps.get_rng_state() if device.type == "mps" else None
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif mps_state is not None:
            torch.mps.manual_seed(seed)
        try:
            yield
        finally:
            if mps_state is not None:
                torch.mps.set_rng_state(mps_state)
