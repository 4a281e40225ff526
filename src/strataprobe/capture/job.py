"""One capture on its way: tokens, shards, layer files, manifest."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from strataprobe.capture.batches import choose_batch_tokens, plan_batches
from strataprobe.capture.close import close_layers, merged_texts
from strataprobe.capture.reader import Reader, evaluation_mode
from strataprobe.capture.shards import ShardFolder
from strataprobe.capture.tokens import PromptForm, Tokenizer, TokenRow
from strataprobe.dataset import Dataset
from strataprobe.errors import NonFiniteError, StageError
from strataprobe.locks import release_lock
from strataprobe.manifest import (
    Manifest,
    StageFolder,
    library_versions,
    record_files,
    write_atomic,
    write_manifest,
)
from strataprobe.models import LoadedModel
from strataprobe.progress import Progress, note
from strataprobe.store import TEXTS_NAME

MAIN = "main"
_NOT_FINITE = "not_finite"


@dataclass
class Corpus:
    """Texts captured together: the main ones, or one ``--eval`` set; ``layers`` are those still to be captured."""

    name: str
    dataset: Dataset
    layers: list[int]
    rows: list[TokenRow] = field(default_factory=list)

    @property
    def eval_name(self) -> str | None:
        """NAME of ``--eval NAME=FILE``; None for the main texts."""
        return None if self.name == MAIN else self.name.removeprefix("eval_")


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
        todo = {c.name: {"layers": c.layers, "texts_sha256": c.dataset.sha256} for c in corpora}
        self.folder = StageFolder(out, "capture", {**manifest.config, **manifest.inputs, "captured": todo})
        self.shards = shards_of(out)
        self.details: dict[str, Any] = {"captured": {}}

    def run(self, started_s: float) -> Manifest:
        self._tokenize()
        self._begin()
        budget = choose_batch_tokens(self.batch_tokens, self.model)
        if self.batch_tokens == "auto" and not self.shards.is_dir():
            why = "fixed on CPU" if self.model.device.type == "cpu" else "from the free memory"
            note(f"batch-tokens: {budget:,} (auto: {why})")
        shards = {c.name: ShardFolder.open(self.shards / c.name, self._plan(c, budget)) for c in self.corpora}
        self._read(shards)
        work = self.folder.work
        attrs = self._attrs()
        for corpus in self.corpora:
            close_layers(
                work, shards[corpus.name], corpus.dataset, corpus.layers, self.readouts, corpus.eval_name, attrs
            )
        texts = merged_texts(self.out if self.existing else None, self.corpora, shards)
        write_atomic(work / TEXTS_NAME, texts)
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

    def _tokenize(self) -> None:
        for corpus in self.corpora:
            texts = corpus.dataset.rows
            corpus.rows = self.tokenizer.rows([t.text for t in texts], [f"text {t.id!r}" for t in texts])
            cut = [t.id for t, row in zip(texts, corpus.rows, strict=True) if row.truncated]
            if cut:
                note(
                    f"{len(cut)} of {len(texts)} texts were longer than {self.tokenizer.max_tokens} tokens and were cut at "
                    f"their end ({cut[0]!r} the first)."
                )
            held = self.existing.details["captured"].get(corpus.name) if self.existing else None
            self.details["captured"][corpus.name] = {
                "texts_sha256": corpus.dataset.sha256,
                "layers": sorted({*corpus.layers, *(held["layers"] if held else ())}),
                "n_texts": len(texts),
                "n_tokens": sum(len(row.ids) for row in corpus.rows),
                "n_truncated": len(cut),
                "truncated_ids": cut[:100],
            }

    def _plan(self, corpus: Corpus, budget: int) -> list[Any]:
        return plan_batches([len(row.ids) for row in corpus.rows], budget)

    def _read(self, shards: dict[str, ShardFolder]) -> None:
        total = sum(folder.n_rows for folder in shards.values())
        todo = {name: folder.missing() for name, folder in shards.items()}
        left = sum(len(shards[name].plan[i]) for name, batches in todo.items() for i in batches)
        if left < total:
            note(f"capture: {total - left:,} of {total:,} texts were read before the interruption and are kept.")
        words = self.tokenizer.class_token_ids(self.corpora[0].dataset.class_names) if self.form.suffix else None
        bar = Progress("capture", total, "texts", done=total - left)
        with evaluation_mode(self.model), bar:
            for corpus in self.corpora:
                reader = Reader(self.model, corpus.layers, self.readouts, words)
                folder, ids = shards[corpus.name], [t.id for t in corpus.dataset.rows]
                for batch in todo[corpus.name]:
                    picked = folder.plan[batch]
                    try:
                        result = reader.read([corpus.rows[i] for i in picked], [ids[i] for i in picked])
                    except NonFiniteError:
                        (self.folder.work / _NOT_FINITE).touch()
                        raise
                    folder.write(batch, result)
                    bar.advance(len(picked))

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

    def _commit(self, started_s: float) -> Manifest:
        self.manifest.elapsed_s = round(time.monotonic() - started_s, 3)
        self.manifest.details = self.details
        if self.existing is None:
            manifest = self.folder.commit(self.manifest)
        else:
            self.details["captured"] = {**self.existing.details["captured"], **self.details["captured"]}
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
        """Put one finished file beside those the folder holds; a copy, so that a killed run can do it again."""
        aside = self.out / f".{name}.tmp"
        try:
            shutil.copyfile(self.folder.work / name, aside)
            os.replace(aside, self.out / name)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise StageError(
                f"{self.out / name} could not be written ({error}): free some space, then run the same command again."
            ) from error
