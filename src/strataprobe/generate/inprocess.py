"""The backend ``transformers``: a model of the transformers library writes the texts in this process, in batches.

The same cells in the same batches with the same seeds give the same answers, and every batch is known from the plan and
the ledger alone. So a job that was interrupted makes the batch it was in again, settles what was not settled, and ends
with the ledger of an uninterrupted one. That holds for one batch size: on a GPU "auto" goes by the memory that is free,
and a size that was too large is halved for the rest of the job; a restart may then choose otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from strataprobe.errors import BackendError, ModelError, OptionError
from strataprobe.generate.asking import Asking
from strataprobe.generate.backends import BackendOptions
from strataprobe.generate.cells import Cell, seeded
from strataprobe.generate.prompts import Messages
from strataprobe.generate.stopping import BLANK_LINE, ENDED, Stops, Watch, token_texts
from strataprobe.models import LoadedModel, load_model, say_choices
from strataprobe.progress import note

TOP_P = 0.95
CPU_BATCH = 16
_ANSWER_TOKENS = 16
_MOST_ROWS = 256
# The share of the free memory of a GPU that a batch may be expected to take.
_MEMORY_SHARE = 0.6
# Logits in float32, sorted, with their order and their cumulative sums: bytes for each entry of the vocabulary and row.
_LOGIT_BYTES = 48


@dataclass(frozen=True)
class Answer:
    """What one row became: the text up to where it stopped, its number of new tokens, and whether it came to an end."""

    text: str
    n_tokens: int
    stopped: bool


class InProcess:
    """A decoder that writes texts. ``model`` (an id, a folder, or one that is loaded) is used unless ``options.llm`` is set.

    Raises ModelError for a model that cannot be loaded or cannot write, OptionError for an option that cannot be used.
    """

    name = "transformers"

    def __init__(self, options: BackendOptions, model: str | LoadedModel) -> None:
        size = options.batch_size
        if size != "auto" and (not isinstance(size, int) or size < 1):
            raise OptionError(f"--batch-size is {size!r}, it must be 'auto' or at least 1.")
        if options.max_new_tokens < 1 or options.temperature < 0:
            raise OptionError("--max-new-tokens must be at least 1, and --temperature at least 0.")
        loaded = load_model(options.llm or model, dtype=options.dtype, device=options.device)
        self._loaded, self._options = loaded, options
        self._model: Any = loaded.model
        self.identity = loaded.identity
        self._refuse_what_cannot_write()
        if not isinstance(model, LoadedModel) or options.llm:
            say_choices(loaded, options.dtype, options.device)
        if not loaded.tokenizer.chat_template:
            note(f"{self.identity.name} has no chat template: it is given the plain request as text to go on from.")
        self._end_ids = end_ids(self._model, loaded.tokenizer)
        self._batch: int | None = size if isinstance(size, int) else None
        self._texts: list[str] = []
        self._stops: dict[int, Stops] = {}
        self._n_batches = self._n_accepted = self._n_rejected = 0
        self._busy_s = 0.0

    def write(self, asking: Asking, seed: int) -> None:
        """Ask for the open cells in rounds: round a holds every cell whose first a - 1 answers were all rejected.

        Raises BackendError when a prompt is too long for the model, or not even one row fits into its memory.
        """
        attempt = 1
        while asking.open():
            due = [cell for cell in asking.plan if _is_due(asking, cell, attempt)]
            if any(_is_open(asking, cell, attempt) for cell in due):
                self._round(asking, due, attempt, seed)
            attempt += 1

    def answers(self, prompts: Sequence[Messages]) -> list[str | None]:
        """The most probable short answer to each prompt, in order; None where it is empty."""
        rows = self._encoded(prompts)
        self._prepare(rows, _ANSWER_TOKENS)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        found: list[str | None] = [None] * len(rows)
        start = 0
        while start < len(order):
            part = order[start : start + self._size]
            made = self._generated([rows[i] for i in part], 0.0, _ANSWER_TOKENS, _ANSWER_TOKENS, seed=0)
            if made is None:
                continue
            for i, answer in zip(part, made, strict=True):
                found[i] = answer.text.strip() or None
            start += len(part)
        return found

    def details(self) -> dict[str, Any]:
        """Batches and new tokens of the texts, by whether they were accepted, and how long generating them took."""
        n_tokens = self._n_accepted + self._n_rejected
        return {
            "batches": self._n_batches,
            "batch_size": self._batch,
            "new_tokens_accepted": self._n_accepted,
            "new_tokens_rejected": self._n_rejected,
            "generating_s": round(self._busy_s, 3),
            "new_tokens_per_s": round(n_tokens / self._busy_s, 1) if self._busy_s else None,
            "device": str(self._loaded.device),
            "dtype": self._loaded.dtype,
            "temperature": self._options.temperature,
            "top_p": TOP_P,
            "max_new_tokens": self._options.max_new_tokens,
        }

    def _round(self, asking: Asking, due: Sequence[Cell], attempt: int, seed: int) -> None:
        """Make the batches of one round that are not settled yet, shortest prompts first."""
        options, most = self._options, asking.recipe.writing.sentences[1]
        rows = self._encoded([asking.messages(cell, attempt) for cell in due])
        self._prepare(rows, options.max_new_tokens)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        start = 0
        while start < len(order):
            part = order[start : start + self._size]
            if any(_is_open(asking, due[i], attempt) for i in part):
                batch_seed = seeded(seed, "batch", attempt, start).getrandbits(63)
                made = self._generated(
                    [rows[i] for i in part], options.temperature, options.max_new_tokens, most, batch_seed
                )
                if made is None:
                    continue
                self._n_batches += 1
                for i, answer in zip(part, made, strict=True):
                    if _is_open(asking, due[i], attempt):
                        self._settle(asking, due[i], answer)
            start += len(part)

    def _settle(self, asking: Asking, cell: Cell, answer: Answer) -> None:
        problem = None if answer.stopped else ("truncated", f"no end after {answer.n_tokens} tokens")
        if asking.settle(cell, answer.text, problem):
            self._n_accepted += answer.n_tokens
        else:
            self._n_rejected += answer.n_tokens

    def _encoded(self, prompts: Sequence[Messages]) -> list[list[int]]:
        """Token ids of each prompt. A chat template writes the special tokens itself, so none are added to it."""
        tokenizer = self._loaded.tokenizer
        if not prompts:
            return []
        if not tokenizer.chat_template:
            plain = ["\n\n".join([*(m["content"] for m in prompt), ""]) for prompt in prompts]
            rows = tokenizer(plain, padding=False, truncation=False, verbose=False)["input_ids"]
            return [row[:-1] if row[-1] in self._end_ids else row for row in rows]
        how = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        try:
            chats = tokenizer.apply_chat_template([list(prompt) for prompt in prompts], **how)
        except Exception as error:
            why = str(error).strip().splitlines()[:1] or [type(error).__name__]
            raise BackendError(f"the chat template of {self.identity.name} cannot be used: {why[0]}.") from error
        return tokenizer(chats, add_special_tokens=False, padding=False, truncation=False, verbose=False)["input_ids"]

    def _prepare(self, rows: Sequence[Sequence[int]], n_new: int) -> None:
        """Refuse prompts that are too long, and choose the batch size where it is not chosen yet."""
        longest, most = max(map(len, rows), default=0), self._loaded.max_positions
        if longest + n_new > most:
            raise BackendError(
                f"{self.identity.name} has {most:,} positions, too few for a prompt of {longest:,} tokens and {n_new:,} new"
                " ones: lower --max-new-tokens, or use a model with more positions."
            )
        if self._batch is None:
            self._batch = self._automatic_size(longest + n_new)
            note(f"batch size: {self._batch} texts (auto: {self._loaded.device})")

    @property
    def _size(self) -> int:
        return self._batch or CPU_BATCH

    def _automatic_size(self, n_positions: int) -> int:
        """Rows of a batch: fixed on a CPU; on a GPU the power of two whose caches and logits fit into its free memory."""
        device = self._loaded.device
        if device.type != "cuda":
            return CPU_BATCH
        free = torch.cuda.mem_get_info(device)[0]
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        rows = int(free * _MEMORY_SHARE) // row_bytes(self._model, n_positions)
        return min(1 << max(rows.bit_length() - 1, 0), _MOST_ROWS)

    def _stops_at(self, most_sentences: int) -> Stops:
        """The rules for stopping, made once for a number of sentences."""
        if most_sentences not in self._stops:
            self._texts = self._texts or token_texts(self._loaded.tokenizer)
            n_ids = max(int(self._model.get_output_embeddings().weight.shape[0]), len(self._texts))
            self._stops[most_sentences] = Stops(self._texts, n_ids, self._end_ids, most_sentences, self._loaded.device)
        return self._stops[most_sentences]

    def _generated(
        self, rows: Sequence[list[int]], temperature: float, n_new: int, most_sentences: int, seed: int
    ) -> list[Answer] | None:
        """One batch. None when it did not fit into the GPU's memory: the batch size is halved by then."""
        stops, started_s = self._stops_at(most_sentences), time.perf_counter()
        watch = Watch(stops, len(rows))
        ids, mask = left_padded(rows, self._pad_id, self._loaded.device)
        config = self.sampling(temperature, n_new)
        try:
            with own_settings(self._model), own_randomness(seed, self._loaded.device):
                made = self._model.generate(
                    input_ids=ids, attention_mask=mask, generation_config=config, stopping_criteria=[watch]
                )
        except torch.OutOfMemoryError:
            made = None
        except RuntimeError as error:
            if "probability tensor" in str(error) or "device-side assert" in str(error):
                raise BackendError(
                    f"{self.identity.name} gave values that are not finite in {self._loaded.dtype}: use --dtype float32."
                ) from error
            raise
        if made is None:  # outside the handler, so that the error no longer holds what it was about
            self._halve()
            return None
        news, lengths, states = made[:, ids.shape[1] :].tolist(), watch.lengths.tolist(), watch.states.tolist()
        reasons = [stops.reason(state) for state in states]
        kept = [new[: n - (why == ENDED)] for new, n, why in zip(news, lengths, reasons, strict=True)]
        texts = [self._text(new, why) for new, why in zip(kept, reasons, strict=True)]
        self._busy_s += time.perf_counter() - started_s
        return [Answer(text, n, why is not None) for text, n, why in zip(texts, lengths, reasons, strict=True)]

    def sampling(self, temperature: float, n_new: int) -> Any:
        """How tokens are drawn: nothing of the model's own settings but its end tokens. Greedy at temperature 0."""
        from transformers import GenerationConfig

        drawn = {"do_sample": True, "temperature": temperature, "top_p": TOP_P, "top_k": 0}
        return GenerationConfig(
            **(drawn if temperature > 0 else {"do_sample": False}),
            max_new_tokens=n_new,
            use_cache=True,
            eos_token_id=self._end_ids or None,
            pad_token_id=self._pad_id,
        )

    @property
    def _pad_id(self) -> int:
        pad = self._loaded.tokenizer.pad_token_id
        return int(pad) if pad is not None else next(iter(self._end_ids), 0)

    def _text(self, ids: list[int], why: str | None) -> str:
        text = self._loaded.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if why != BLANK_LINE:
            return str(text)
        lines = str(text).strip().split("\n")
        return "\n".join(lines[: next((i for i, line in enumerate(lines) if not line.strip()), len(lines))])

    def _halve(self) -> None:
        if self._size == 1:
            raise BackendError(
                f"{self.identity.name} has no memory left on {self._loaded.device} for even one text at a time: use"
                " --dtype bfloat16, a lower --max-new-tokens, or a smaller model."
            )
        torch.cuda.empty_cache()
        self._batch = self._size // 2
        note(f"batch size: {self._batch} texts from here on (a larger batch did not fit into the memory of the GPU)")

    def _refuse_what_cannot_write(self) -> None:
        name, loaded = self.identity.name, self._loaded
        if loaded.kind == "encoder":
            raise ModelError(f"{name} is an encoder and cannot write texts: use a decoder that follows instructions.")
        if loaded.head is None or not hasattr(self._model, "generate"):
            raise ModelError(
                f"{name} has no output head and cannot write texts: use a model that is saved with its head."
            )


def _is_due(asking: Asking, cell: Cell, attempt: int) -> bool:
    """Whether a cell belongs to a round: its earlier attempts are all there, and all rejected."""
    before = asking.ledger.of(cell.id)[: attempt - 1]
    return len(before) == attempt - 1 and not any(entry.accepted for entry in before)


def _is_open(asking: Asking, cell: Cell, attempt: int) -> bool:
    return len(asking.ledger.of(cell.id)) < attempt and asking.may_ask(cell)


def end_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every token that ends an answer: those of the model's own generation settings and configuration, and the tokenizer's."""
    text_config = model.config.get_text_config()
    own = [getattr(model.generation_config, "eos_token_id", None), getattr(text_config, "eos_token_id", None)]
    found: set[int] = set()
    for ids in (*own, tokenizer.eos_token_id):
        found |= set(ids) if isinstance(ids, (list, tuple)) else {ids} - {None}
    return sorted(found)


def row_bytes(model: Any, n_positions: int) -> int:
    """About what one row of a batch takes of a GPU's memory: its cache, its logits, and activations of the prompt."""
    config, width = model.config.get_text_config(), next(model.parameters()).element_size()
    n_heads = int(config.num_attention_heads)
    head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // n_heads)
    cache = 2 * int(config.num_hidden_layers) * int(getattr(config, "num_key_value_heads", None) or n_heads) * head_dim
    inner = int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    activations = 8 * int(config.hidden_size) + 4 * inner
    return (cache + activations) * width * n_positions + _LOGIT_BYTES * int(config.vocab_size)


def left_padded(rows: Sequence[list[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids, mask), both (B, T) on ``device``: the rows end together, as what is written follows them."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (longest - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


@contextmanager
def own_settings(model: Any) -> Iterator[None]:
    """The model in evaluation mode and without generation settings of its own, both as they were afterwards."""
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
    """Random numbers from ``seed`` for the CPU and ``device``; the caller's generators are as they were afterwards."""
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
