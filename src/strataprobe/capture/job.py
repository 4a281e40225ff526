"""One capture on its way: tokens, shards, layer files, manifest."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from strataprobe.capture.background import BackgroundWriter
from strataprobe.capture.batches import choose_batch_tokens, plan_batches
from strataprobe.capture.close import close_layers
from strataprobe.capture.corpus import Corpus
from strataprobe.capture.reader import PendingBatch, Reader, evaluation_mode
from strataprobe.capture.shards import Plan, ShardFolder
from strataprobe.capture.space import check_space
from strataprobe.capture.texts import write_texts
from strataprobe.capture.tokens import PromptForm, Tokenizer
from strataprobe.errors import NonFiniteError, StageError
from strataprobe.locks import release_lock
from strataprobe.manifest import (
    Manifest,
    StageFolder,
    library_versions,
    read_json,
    record_files,
    write_json,
    write_manifest,
)
from strataprobe.models import LoadedModel
from strataprobe.progress import Progress, note

_NOT_FINITE = "not_finite"
_MEMORY_NAME = "out_of_memory.json"
_EXACTNESS = (
    "Batches were halved where memory ran out: vectors agree with those of an undisturbed capture within the tolerance "
    "stated for the model's family and dtype, not to the byte."
)


def shards_of(out: Path) -> Path:
    """Where the shards of a capture into ``out`` lie until it is finished."""
    return out.with_name(f".{out.name}.shards")


class CaptureJob:
    """One capture on its way: tokens, shards, layer files, manifest."""

    def __init__(
        self,
        model: LoadedModel,
        tokenizer: Tokenizer,
        form: PromptForm,
        readouts: tuple[str, ...],
        corpora: list[Corpus],
        out: Path,
        existing: Manifest | None,
        manifest: Manifest,
        batch_tokens: int | str,
    ) -> None:
        self.model, self.tokenizer, self.form, self.readouts = model, tokenizer, form, readouts
        self.corpora, self.out, self.existing, self.manifest = corpora, out, existing, manifest
        self.batch_tokens = batch_tokens
        todo = {corpus.name: corpus.key() for corpus in corpora}
        self.folder = StageFolder(out, "capture", {**manifest.config, **manifest.inputs, "captured": todo})
        self.shards = shards_of(out)
        self.batch_limit: int | None = None
        self.n_splits = 0

    def run(self, started_s: float) -> Manifest:
        for corpus in self.corpora:
            corpus.tokenize(self.tokenizer, self.readouts)
        self._begin()
        shards = self._open_shards()
        work = self.folder.work
        check_space(self.out, work, [(c, shards[c.name]) for c in self.corpora], self.readouts, self.model.d_model)
        self._read(shards)
        attrs = self._attrs()
        for corpus in self.corpora:
            corpus.drop_tokens()
            close_layers(work, shards[corpus.name], corpus, self.readouts, attrs)
        write_texts(work, self.out if self.existing else None, self.corpora, shards)
        self.manifest.details = self._details(shards)
        return self._commit(started_s)

    def _begin(self) -> None:
        """Take up an interrupted attempt at this very capture.

        An attempt with other options is discarded when it has read nothing yet, or ended in values that are not finite.
        """
        spoiled = self.folder.work / _NOT_FINITE
        pending = self.folder.pending_key()
        nothing_read = not list(self.shards.rglob("*.safetensors"))
        if pending is not None and pending != self.folder.key and (nothing_read or spoiled.is_file()):
            shutil.rmtree(self.folder.work)
        if not self.folder.begin():
            shutil.rmtree(self.shards, ignore_errors=True)
        spoiled.unlink(missing_ok=True)

    def _open_shards(self) -> dict[str, ShardFolder]:
        resumed = self.shards.is_dir()
        n_token_layers = max(len(corpus.token_layers) for corpus in self.corpora)
        budget = choose_batch_tokens(self.batch_tokens, self.model, n_token_layers=n_token_layers)
        if self.batch_tokens == "auto" and not resumed:
            why = "fixed on CPU" if self.model.device.type == "cpu" else "from the free memory"
            note(f"batch-tokens: {budget:,} (auto: {why})")
        shards = {}
        for corpus in self.corpora:
            plan = Plan.of(plan_batches(corpus.lengths, budget), budget)
            shards[corpus.name] = ShardFolder.open(self.shards / corpus.name, plan, corpus.lengths)
        if (self.shards / _MEMORY_NAME).is_file():
            held = read_json(self.shards / _MEMORY_NAME)
            self.batch_limit, self.n_splits = held["batch_limit"], held["n_splits"]
        return shards

    def _read(self, shards: dict[str, ShardFolder]) -> None:
        total = sum(folder.n_rows for folder in shards.values())
        left = sum(folder.n_rows_missing for folder in shards.values())
        n_damaged = sum(folder.n_damaged for folder in shards.values())
        if n_damaged:
            note(f"capture: {n_damaged:,} batches on disk were damaged and are read again.")
        if left < total:
            note(f"capture: {total - left:,} of {total:,} texts were read before the interruption and are kept.")
        words = self.tokenizer.class_token_ids(self.corpora[0].dataset.class_names) if self.form.suffix else None
        bar = Progress("capture", total, "texts", done=total - left)
        with evaluation_mode(self.model), bar:
            for corpus in self.corpora:
                reader = Reader(self.model, corpus.layers, self.readouts, words, keep_tokens=bool(corpus.token_layers))
                try:
                    self._read_corpus(reader, corpus, shards[corpus.name], bar)
                except NonFiniteError:
                    (self.folder.work / _NOT_FINITE).touch()
                    raise

    def _read_corpus(self, reader: Reader, corpus: Corpus, shards: ShardFolder, bar: Progress) -> None:
        """Forward passes go on while the batches before are written; what was read when they end is written too."""
        texts, pending = corpus.dataset.rows, dict[int, PendingBatch]()
        reader.batch_limit, before = self.batch_limit, self.n_splits

        def write(batch: int) -> None:
            result = pending[batch].result()
            result.tokens = {layer: result.tokens[layer] for layer in corpus.token_layers}
            shards.write(batch, result)
            del pending[batch]
            bar.advance(len(shards.plan.rows(batch)))

        try:
            with BackgroundWriter(write) as writer:
                for batch in shards.missing:
                    picked = shards.plan.rows(batch).tolist()
                    pending[batch] = reader.start([corpus.table[i] for i in picked], [texts[i].id for i in picked])
                    if before + reader.n_splits > self.n_splits:
                        self._remember(reader.batch_limit, before + reader.n_splits)
                    writer.put(batch)
        except (NonFiniteError, StageError):
            raise
        except BaseException:
            for batch in list(pending):
                write(batch)
            raise

    def _remember(self, batch_limit: int | None, n_splits: int) -> None:
        """Keep what an out-of-memory has taught, for the attempts after this one."""
        self.batch_limit, self.n_splits = batch_limit, n_splits
        write_json(self.shards / _MEMORY_NAME, {"batch_limit": batch_limit, "n_splits": n_splits})

    def _attrs(self) -> dict[str, Any]:
        dataset = self.corpora[0].dataset
        return {
            "model_name": self.model.identity.name,
            "model_revision": self.model.identity.revision,
            "label_names": dataset.class_names,
            "prefix": self.form.prefix,
            "suffix": self.form.suffix,
            "template": self.form.template,
            "dtype": self.model.dtype,
            "recipe_name": dataset.recipe.name if dataset.recipe else "",
        }

    def _details(self, shards: dict[str, ShardFolder]) -> dict[str, Any]:
        held = self.existing.details if self.existing else {}
        captured = dict(held.get("captured", {}))
        for corpus in self.corpora:
            captured[corpus.name] = corpus.details(captured.get(corpus.name, {}).get("layers", ()))
        n_tokens = sum(int(folder.lengths.sum()) for folder in shards.values())
        n_padded = sum(folder.n_padded_tokens for folder in shards.values())
        n_splits = held.get("out_of_memory_splits", 0) + self.n_splits
        return {
            "captured": captured,
            "batch_tokens": next(iter(shards.values())).plan.batch_tokens,
            "n_batches": sum(len(folder.plan) for folder in shards.values()),
            "padding_share": round(1 - n_tokens / n_padded, 4),
            "out_of_memory_splits": n_splits,
            **({"exactness": _EXACTNESS} if n_splits else {}),
        }

    def _commit(self, started_s: float) -> Manifest:
        self.manifest.elapsed_s = round(time.monotonic() - started_s, 3)
        if self.existing is None:
            manifest = self.folder.commit(self.manifest)
        else:
            manifest = self.manifest
            manifest.versions = library_versions()
            fresh = record_files(self.folder.work)
            manifest.files = dict(sorted({**self.existing.files, **fresh}.items()))
            for name in sorted(fresh):
                self._move_in(name)
            write_manifest(self.out, manifest)
            shutil.rmtree(self.folder.work)
            release_lock(self.out)
        shutil.rmtree(self.shards, ignore_errors=True)
        return manifest

    def _move_in(self, name: str) -> None:
        """Put a finished file beside those the folder holds; it stays in ``work``, for a killed run to do it again."""
        source, aside = self.folder.work / name, self.out / f".{name}.tmp"
        try:
            aside.unlink(missing_ok=True)
            try:
                os.link(source, aside)
            except OSError:  # a file system without links
                shutil.copyfile(source, aside)
            os.replace(aside, self.out / name)
        except OSError as error:
            with suppress(OSError):
                aside.unlink()
            raise StageError(
                f"{self.out / name} could not be written ({error}): free some space, then run the same command again."
            ) from error
