"""One capture on its way: tokens, shards, layer files, manifest."""

from __future__ import annotations

import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from strataprobe.capture.attempt import Attempt, made_with, remove_folder
from strataprobe.capture.background import BackgroundWriter
from strataprobe.capture.batches import choose_batch_tokens, parse_batch_tokens, plan_batches
from strataprobe.capture.close import close_layers
from strataprobe.capture.corpus import Corpus
from strataprobe.capture.reader import PendingBatch, Reader, evaluation_mode
from strataprobe.capture.shards import Plan, ShardFolder, array_names
from strataprobe.capture.space import check_space
from strataprobe.capture.texts import write_texts
from strataprobe.capture.tokens import PromptForm, Tokenizer
from strataprobe.errors import NonFiniteError, StageError
from strataprobe.manifest import (
    MANIFEST_NAME,
    Manifest,
    library_versions,
    read_manifest,
    record_files,
    sha256_file,
    write_manifest,
)
from strataprobe.models import LoadedModel
from strataprobe.progress import Progress, note
from strataprobe.stagefolder import StageFolder
from strataprobe.store import TEXTS_NAME

_NOT_FINITE = "not_finite"
# Batches on their way to the disk are kept in memory that cannot be swapped out: each may take this share of what is free.
_HOST_SHARE, _LEAST_TOKENS = 8, 2**11


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
        self.corpora, self.existing, self.manifest = corpora, existing, manifest
        self.batch_tokens = batch_tokens
        todo = {corpus.name: corpus.key() for corpus in corpora}
        self.folder = StageFolder(out, "capture", {**manifest.config, **manifest.inputs, "captured": todo})
        self.out = self.folder.final
        self.shards = shards_of(self.out)

    def run(self, started_s: float) -> Manifest:
        """Everything from the tokens to the manifest. The lock on the folder is the caller's to release."""
        for corpus in self.corpora:
            corpus.tokenize(self.tokenizer, self.readouts)
        self._refuse_other_tokens()
        resumed = self._begin()
        readers = self._readers()
        shards = self._open_shards(readers, resumed)
        work = self.folder.work
        check_space(self.out, work, [(c, shards[c.name]) for c in self.corpora], self.readouts, self.model.d_model)
        self._read(readers, shards)
        attrs = self._attrs()
        for corpus in self.corpora:
            corpus.drop_tokens()
            close_layers(work, shards[corpus.name], corpus, self.readouts, attrs)
        write_texts(work, self.out if self.existing else None, self.corpora, shards)
        self.manifest.details = self._details(shards)
        return self._commit(started_s)

    def _refuse_other_tokens(self) -> None:
        held = self.existing.details["captured"] if self.existing else {}
        for corpus in self.corpora:
            if held.get(corpus.name, {}).get("tokens_sha256", corpus.tokens_sha256) != corpus.tokens_sha256:
                raise StageError(
                    f"{self.out} was captured from other tokens of the same texts (its tokenizer was changed since): "
                    "choose another --out."
                )

    def _begin(self) -> bool:
        """Take the folder, and take up an interrupted attempt at this very capture: whether there is one.

        An attempt with other options is discarded when it has read nothing yet, or ended in values that are not finite.
        Raises StageError when another process has finished a capture into the folder since it was looked at.
        """
        work, spoiled = self.folder.work, self.folder.work / _NOT_FINITE
        pending = self.folder.pending_key()
        nothing_read = not any(self.shards.rglob("*.safetensors"))
        if pending is not None and pending != self.folder.key and (nothing_read or spoiled.is_file()):
            remove_folder(work)
        resumed = self.folder.begin()
        now = read_manifest(self.out) if (self.out / MANIFEST_NAME).is_file() else None
        if now != self.existing:
            if not resumed:
                remove_folder(work)
            raise StageError(f"{self.out} was changed meanwhile by another strataprobe: run the same command again.")
        if self.existing is not None and not resumed:
            self._refuse_changed_texts(self.existing)
        spoiled.unlink(missing_ok=True)
        tokens = {corpus.name: corpus.tokens_sha256 for corpus in self.corpora}
        held = Attempt.resumed(self.shards, tokens) if resumed else None
        self.attempt = held or Attempt.new(self.shards, made_with(self.model), tokens)
        return held is not None

    def _refuse_changed_texts(self, existing: Manifest) -> None:
        """Rows of ``texts.jsonl`` are carried over when layers are added, and would get a new checksum."""
        path = self.out / TEXTS_NAME
        if sha256_file(path) != existing.files[TEXTS_NAME].sha256:
            remove_folder(self.folder.work)
            raise StageError(
                f"{path} has other contents than were written (sha256 differs): delete {self.out} and capture again."
            )

    def _readers(self) -> dict[str, Reader]:
        words = self.tokenizer.class_token_ids(self.corpora[0].dataset.class_names) if self.form.suffix else None
        return {
            corpus.name: Reader(self.model, corpus.layers, self.readouts, words, keep_tokens=corpus.keep_tokens)
            for corpus in self.corpora
        }

    def _open_shards(self, readers: dict[str, Reader], resumed: bool) -> dict[str, ShardFolder]:
        asked = parse_batch_tokens(self.batch_tokens)
        n_token_layers = max(len(corpus.token_layers) for corpus in self.corpora)
        budget = choose_batch_tokens(self.batch_tokens, self.model, n_token_layers=n_token_layers)
        device = self.model.device.type
        if asked is None and device == "cuda" and n_token_layers:
            budget = most_in_host_memory(budget, 4 * self.model.d_model * n_token_layers)
        shards = {}
        for corpus in self.corpora:
            plan = Plan.of(plan_batches(corpus.lengths, budget), budget)
            zero_shot = readers[corpus.name].reads_class_words
            names = array_names(corpus.layers, self.readouts, tokens=corpus.keep_tokens, zero_shot=zero_shot)
            shards[corpus.name] = ShardFolder.open(self.shards / corpus.name, plan, corpus.lengths, names)
        left = [folder.plan.batch_tokens for folder in shards.values() if folder.missing]
        if resumed and left:
            self.attempt.go_on(made_with(self.model), asked, max(left))
            self.attempt.write(self.shards)
        elif asked is None and not resumed:
            why = "from the free memory" if device == "cuda" else f"fixed on {device.upper()}"
            note(f"batch-tokens: {budget:,} (auto: {why})")
        return shards

    def _read(self, readers: dict[str, Reader], shards: dict[str, ShardFolder]) -> None:
        total = sum(folder.n_rows for folder in shards.values())
        left = sum(folder.n_rows_missing for folder in shards.values())
        n_damaged = sum(folder.n_damaged for folder in shards.values())
        if n_damaged:
            note(f"capture: {n_damaged:,} batches on disk were damaged and are read again.")
        if left < total:
            note(f"capture: {total - left:,} of {total:,} texts were read before the interruption and are kept.")
        bar = Progress("capture", total, "texts", done=total - left)
        with evaluation_mode(self.model), bar:
            for corpus in self.corpora:
                try:
                    self._read_corpus(readers[corpus.name], corpus, shards[corpus.name], bar)
                except NonFiniteError:
                    (self.folder.work / _NOT_FINITE).touch()
                    raise

    def _read_corpus(self, reader: Reader, corpus: Corpus, shards: ShardFolder, bar: Progress) -> None:
        """Forward passes go on while the batches before are written; what was read when they end is written too."""
        texts, pending = corpus.dataset.rows, dict[int, PendingBatch]()
        reader.batch_limit, before = self.attempt.batch_limit, self.attempt.n_splits

        def write(batch: int) -> None:
            shards.write(batch, pending[batch].result())
            del pending[batch]
            bar.advance(len(shards.plan.rows(batch)))

        writer = BackgroundWriter(write, depth=1 if corpus.keep_tokens else 2)
        try:
            with writer:
                for batch in shards.missing:
                    picked = shards.plan.rows(batch).tolist()
                    pending[batch] = reader.start([corpus.table[i] for i in picked], [texts[i].id for i in picked])
                    if before + reader.n_splits > self.attempt.n_splits:
                        self.attempt.split(reader.batch_limit, before + reader.n_splits)
                        self.attempt.write(self.shards)
                    writer.put(batch)
        except (NonFiniteError, StageError):
            raise
        except BaseException:
            if writer.finished:  # else interrupted once more, and two would write one shard
                for batch in list(pending):
                    write(batch)
            raise

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
        """What the manifest tells: ``captured`` of all there is, and ``made_with`` of each command that added to it.

        ``n_layers`` counts the blocks of the model, captured or not.
        ``batch_tokens``, ``n_batches``, ``padding_share`` and the manifest's ``elapsed_s`` are of the last command alone.
        """
        held = self.existing.details if self.existing else {}
        captured = dict(held.get("captured", {}))
        for corpus in self.corpora:
            captured[corpus.name] = corpus.details(captured.get(corpus.name, {}).get("layers", ()))
        n_tokens = sum(int(folder.lengths.sum()) for folder in shards.values())
        n_padded = sum(folder.n_padded_tokens for folder in shards.values())
        layers = {corpus.name: corpus.layers for corpus in self.corpora}
        exactness = dict.fromkeys(said for said in (held.get("exactness"), self.attempt.exactness) if said)
        return {
            "captured": captured,
            "n_layers": self.model.n_layers,
            "made_with": [*held.get("made_with", ()), {"layers": layers, **self.attempt.made_with}],
            "batch_tokens": next(iter(shards.values())).plan.batch_tokens,
            "n_batches": sum(len(folder.plan) for folder in shards.values()),
            "padding_share": round(1 - n_tokens / n_padded, 4),
            "out_of_memory_splits": held.get("out_of_memory_splits", 0) + self.attempt.n_splits,
            **({"exactness": " ".join(exactness)} if exactness else {}),
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


def most_in_host_memory(budget: int, token_bytes: int) -> int:
    """At most ``budget``: the power of two of tokens, of ``token_bytes`` each, that a share of the host's memory holds."""
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return budget
    if found is None:
        return budget
    fits = max(1, int(found[1]) * 1024 // _HOST_SHARE // token_bytes)
    return min(budget, max(_LEAST_TOKENS, 1 << (fits.bit_length() - 1)))
