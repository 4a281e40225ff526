"""What a capture remembers beside its shards, for the attempt that goes on after an interruption."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from strataprobe.errors import StageError
from strataprobe.manifest import library_versions, read_json, write_json
from strataprobe.models import LoadedModel
from strataprobe.progress import note

_NAME = "attempt.json"
_LIBRARIES = ("torch", "transformers", "tokenizers")


def made_with(model: LoadedModel) -> dict[str, str]:
    """What the last bits of a vector depend on beside its batch: kind of device, and libraries' versions."""
    versions = library_versions()
    return {"device": model.device.type, **{name: versions[name] for name in _LIBRARIES if name in versions}}


@dataclass
class Attempt:
    """What decided the shards that are on disk.

    ``made_with`` is that of the first attempt, ``tokens_sha256`` the digest of each corpus's tokens. No pass may hold more
    tokens than ``batch_limit``, padding counted, if it is set; batches were halved ``n_splits`` times for lack of memory.
    ``departures`` says in what this capture is unlike one that was left alone.
    """

    made_with: dict[str, str]
    tokens_sha256: dict[str, str]
    batch_limit: int | None = None
    n_splits: int = 0
    departures: list[str] = field(default_factory=list)

    @classmethod
    def resumed(cls, folder: Path, tokens_sha256: dict[str, str]) -> Self | None:
        """The attempt whose shards are in ``folder``, None when there are none.

        The shards of a corpus that has other tokens now are removed, and that is said. Raises StageError when they cannot
        be, or when what is remembered is damaged.
        """
        path = folder / _NAME
        if not path.is_file() or not any(folder.rglob("*.safetensors")):
            return None
        try:
            attempt = cls(**read_json(path))
        except TypeError as error:
            raise StageError(f"{path} is damaged ({error}): delete {folder} and run again.") from error
        for name, digest in tokens_sha256.items():
            if attempt.tokens_sha256.get(name) != digest:
                note(f"capture: the tokenizer gives other tokens than before the interruption: {name} is read again.")
                remove_folder(folder / name)
        attempt.tokens_sha256 = tokens_sha256
        attempt.write(folder)
        return attempt

    @classmethod
    def new(cls, folder: Path, made: dict[str, str], tokens_sha256: dict[str, str]) -> Self:
        """A first attempt: ``folder`` holds nothing else afterwards. Raises StageError when it cannot be written."""
        remove_folder(folder)
        attempt = cls(made, tokens_sha256)
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise StageError(f"{folder} could not be made: {error.strerror or error}; choose another --out.") from error
        attempt.write(folder)
        return attempt

    def write(self, folder: Path) -> None:
        """Store it. Raises StageError when there is no space left."""
        write_json(folder / _NAME, asdict(self))

    def go_on(self, made: dict[str, str], asked: int | None, planned: int) -> None:
        """Say, and remember, what is not as it was before the interruption, where something is left to read.

        ``asked`` is the ``--batch-tokens`` asked for now, None for "auto", ``planned`` that of the stored batches.
        """
        changed = [f"{k} {made.get(k)}, not {v}" for k, v in self.made_with.items() if made.get(k) != v]
        if changed:
            note(f"capture: going on with {', '.join(changed)} as before the interruption.")
            self._depart(f"It was interrupted and went on with {', '.join(changed)}.")
        if asked is None or asked == planned:
            return
        if asked > planned:
            note(f"batch-tokens: {planned:,} (that of the interrupted attempt, whose batches are kept)")
            return
        self.batch_limit = min(asked, self.batch_limit or asked)
        note(f"batch-tokens: {self.batch_limit:,} (batches of the interrupted attempt are read in parts)")
        self._depart(f"It was interrupted and went on with {self.batch_limit:,} tokens in a batch, not {planned:,}.")

    def split(self, batch_limit: int | None, n_splits: int) -> None:
        """Remember what an out-of-memory has taught."""
        self.batch_limit, self.n_splits = batch_limit, n_splits
        self._depart("Batches were halved where memory ran out.")

    def _depart(self, sentence: str) -> None:
        if sentence not in self.departures:
            self.departures.append(sentence)

    @property
    def exactness(self) -> str | None:
        """In what sense the vectors are those of an undisturbed capture, None where they are to the byte."""
        if not self.departures:
            return None
        return (
            f"{' '.join(self.departures)} Vectors agree with those of an undisturbed capture within the tolerance stated "
            "for the model's family and dtype, not to the byte."
        )


def remove_folder(folder: Path) -> None:
    """Remove a folder, if there is one. Raises StageError when it cannot be removed."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StageError(f"{folder} could not be removed ({error.strerror or error}): delete it.") from error
