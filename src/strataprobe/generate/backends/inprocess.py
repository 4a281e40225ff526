"""The backend ``transformers``: a model of the transformers library writes the texts in this process, in batches.

The same cells in the same batches with the same seeds give the same answers, and every batch is known from the plan and
the ledger alone. So a job that was interrupted makes the batch it was in again, settles what was not settled, and ends
with the ledger of an uninterrupted one. That holds for one batch size: on a GPU "auto" goes by the memory that is free,
and a size that was too large is halved for the rest of the job; neither is written down, so that a restart may choose
otherwise, and then writes other texts for the cells that are missing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from strataprobe.errors import BackendError, ModelError, OptionError
from strataprobe.generate.asking import Asking
from strataprobe.generate.backends import BackendOptions
from strataprobe.generate.backends.decoding import TOP_P, Answer, Decoder, Draw
from strataprobe.generate.cells import Cell, seeded
from strataprobe.generate.prompts import Messages
from strataprobe.models import LoadedModel, load_model, say_choices
from strataprobe.progress import note

_ANSWER_TOKENS = 16


class InProcess:
    """A decoder that writes texts. ``model`` (an id, a folder, or a loaded one) is used unless ``options.llm`` is set.

    Raises ModelError for a model that cannot be loaded or cannot write, OptionError for an option that cannot be used.
    """

    name = "transformers"

    def __init__(self, options: BackendOptions, model: str | LoadedModel) -> None:
        _check(options)
        self._options = options
        self._loaded = load_model(options.llm or model, dtype=options.dtype, device=options.device)
        self.identity = self._loaded.identity
        _refuse_what_cannot_write(self._loaded)
        if options.llm or not isinstance(model, LoadedModel):
            say_choices(self._loaded, options.dtype, options.device)
        self._decoder = Decoder(self._loaded)
        if not self._loaded.tokenizer.chat_template:
            note(f"{self.identity.name} has no chat template: it is given the plain request, as a text to go on with.")
        self._size = options.batch_size if isinstance(options.batch_size, int) else 0
        self._n_batches = self._n_accepted = self._n_rejected = 0
        self._busy_s = 0.0

    def write(self, asking: Asking, seed: int) -> None:
        """Ask for the open cells in rounds: round a holds every cell whose first a - 1 answers were all rejected.

        Raises BackendError when a prompt is too long for the model, or not even one text fits into the GPU's memory.
        """
        attempt = 1
        while asking.open():
            due = [cell for cell in asking.plan if _is_due(asking, cell, attempt)]
            if any(_is_open(asking, cell, attempt) for cell in due):
                self._round(asking, due, attempt, seed)
            attempt += 1

    def answers(self, prompts: Sequence[Messages]) -> list[str | None]:
        """The most probable short answer to each prompt, in order; None where it is empty."""
        rows = self._decoder.encoded(prompts)
        order = self._order(rows, _ANSWER_TOKENS)
        found: list[str | None] = [None] * len(rows)
        start = 0
        while start < len(order):
            part = order[start : start + self._size]
            made = self._made([rows[i] for i in part], Draw(0.0, _ANSWER_TOKENS, _ANSWER_TOKENS))
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
            "batch_size": self._size or None,
            "new_tokens_accepted": self._n_accepted,
            "new_tokens_rejected": self._n_rejected,
            "generating_s": round(self._busy_s, 3),
            "new_tokens_per_s": round(n_tokens / self._busy_s, 1) if n_tokens else None,
            "device": str(self._loaded.device),
            "dtype": self._loaded.dtype,
            "top_p": TOP_P,
        }

    def _round(self, asking: Asking, due: Sequence[Cell], attempt: int, seed: int) -> None:
        """Make the batches of one round that are not settled yet, those with short prompts first."""
        # one sentence to spare: the point of an abbreviation looks like an end
        options, most = self._options, asking.recipe.writing.sentences[1] + 1
        rows = self._decoder.encoded([asking.messages(cell, attempt) for cell in due])
        order = self._order(rows, options.max_new_tokens)
        start = 0
        while start < len(order):
            part = order[start : start + self._size]
            if any(_is_open(asking, due[i], attempt) for i in part):
                batch_seed = seeded(seed, "batch", attempt, start).getrandbits(63)
                draw = Draw(options.temperature, options.max_new_tokens, most, batch_seed)
                started_s = time.perf_counter()
                made = self._made([rows[i] for i in part], draw)
                self._busy_s += time.perf_counter() - started_s
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

    def _order(self, rows: Sequence[Sequence[int]], n_new: int) -> list[int]:
        """The rows by length, equal ones as they stand. Refuses those too long; chooses the batch size if need be."""
        longest, most = max(map(len, rows), default=0), self._decoder.max_positions
        if longest + n_new > most:
            raise BackendError(
                f"{self.identity.name} has {most:,} positions, too few for a prompt of {longest:,} tokens and {n_new:,} new"
                " ones: lower --max-new-tokens, or use a model with more positions."
            )
        if not self._size:
            self._size = self._decoder.automatic_size(longest + n_new)
            note(f"batch size: {self._size} texts (auto: {self._loaded.device})")
        return sorted(range(len(rows)), key=lambda i: len(rows[i]))

    def _made(self, rows: Sequence[list[int]], draw: Draw) -> list[Answer] | None:
        """The answers of one batch; None when it was too large, and the size is halved for all that follow."""
        made = self._decoder.generated(rows, draw)
        if made is None:
            if len(rows) == 1:
                raise BackendError(
                    f"{self.identity.name} has no memory left on {self._loaded.device} for even one text at a time: use"
                    " --dtype bfloat16, a lower --max-new-tokens, or a smaller model."
                )
            self._size = len(rows) // 2
            note(f"batch size: {self._size} texts from here on ({len(rows)} did not fit into the memory of the GPU)")
        return made


def _is_due(asking: Asking, cell: Cell, attempt: int) -> bool:
    """Whether a cell belongs to a round: its earlier attempts are all there, and were all rejected."""
    before = asking.ledger.of(cell.id)[: attempt - 1]
    return len(before) == attempt - 1 and not any(entry.accepted for entry in before)


def _is_open(asking: Asking, cell: Cell, attempt: int) -> bool:
    return len(asking.ledger.of(cell.id)) < attempt and asking.may_ask(cell)


def _check(options: BackendOptions) -> None:
    size = options.batch_size
    if size != "auto" and not (isinstance(size, int) and size >= 1):
        raise OptionError(f"--batch-size is {size!r}, it must be 'auto' or a number of at least 1.")
    if options.max_new_tokens < 1:
        raise OptionError(f"--max-new-tokens is {options.max_new_tokens}, it must be at least 1.")
    if options.temperature < 0:
        raise OptionError(f"--temperature is {options.temperature}, it must be at least 0.")


def _refuse_what_cannot_write(loaded: LoadedModel) -> None:
    name, model = loaded.identity.name, loaded.model
    if loaded.kind == "encoder":
        raise ModelError(f"{name} is an encoder and cannot write texts: use a decoder that follows instructions.")
    if loaded.head is None or not hasattr(model, "generate"):
        raise ModelError(f"{name} has no output head and cannot write texts: use a model that was saved with its head.")
