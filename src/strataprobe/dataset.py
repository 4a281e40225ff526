"""Labelled texts: read them, check every row, fill in what is missing, and split by group.

No row is ever dropped, changed or reordered. Texts that must stay together (same scenario, near-duplicates) share a
``group``, and a group lies in one split.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from strataprobe.content import NOT_A_NAME, Content, content_of, text_of
from strataprobe.errors import DataError
from strataprobe.manifest import read_manifest, sha256_json
from strataprobe.neardup import near_duplicate_groups
from strataprobe.recipe import Recipe, recipe_from_json
from strataprobe.textfiles import iter_rows

SPLITS = ("train", "val", "test")
LABEL_FIELDS = ("label", "sentiment", "cognitive_action")
_SPLIT_ALIASES = {"validation": "val", "dev": "val"}
_GROUP_FIELDS = ("group", "pair_id")
_KNOWN = {"id", "text", "label", "split", "group", "score"}
_ROWS_AT_ONCE = 1000


class _NoFields(Mapping[str, Any]):
    """The empty mapping that all rows without further fields share, so nobody may add to it."""

    def __getitem__(self, key: str) -> Any:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


_NO_FIELDS = _NoFields()


@dataclass(slots=True)
class Text:
    """One row: a text, or a conversation, whose ``text`` is then the content of the last of its ``messages``.

    ``label`` is None where the row has none; ``score`` is a continuous target, None where it has none. ``messages`` are
    ``{"role", "content"}`` each, None for a plain text. ``fields`` is what else the row brought.
    """

    id: str
    text: str
    label: str | None = None
    split: str = ""
    group: str = ""
    score: float | None = None
    fields: Mapping[str, Any] = field(default_factory=lambda: _NO_FIELDS)
    messages: list[dict[str, str]] | None = None

    @property
    def content(self) -> Content:
        """What is captured: the messages where there are any, else the text."""
        return self.text if self.messages is None else self.messages

    @property
    def whole_text(self) -> str:
        """All that is said: the text, or the contents of all messages, a newline between two."""
        return self.text if self.messages is None else "\n".join(m["content"] for m in self.messages)

    def to_json(self) -> dict[str, Any]:
        """The row as it is written to JSONL: the standard fields first, then the recipe's own."""
        row: dict[str, Any] = {"id": self.id}
        row |= {"text": self.text} if self.messages is None else {"messages": self.messages}
        row["label"] = self.label
        if self.score is not None:
            row["score"] = self.score
        return {**row, "split": self.split, "group": self.group, **self.fields}


@dataclass(frozen=True)
class Dataset:
    """Texts with their class names (sorted: position = label index) and, where known, the recipe they were made for."""

    name: str
    rows: list[Text]
    class_names: list[str]
    recipe: Recipe | None = None

    @property
    def sha256(self) -> str:
        """A digest of everything that decides what is captured and trained on; the recipe's extra fields do not.

        That of ``sha256_json`` over the list of all rows, which is never made: it would take more than the texts do.
        """
        digest = hashlib.sha256(b"[")
        for start in range(0, len(self.rows), _ROWS_AT_ONCE):
            values = [_deciding(row) for row in self.rows[start : start + _ROWS_AT_ONCE]]
            part = json.dumps(values, sort_keys=True, ensure_ascii=True, separators=(",", ":"))[1:-1]
            digest.update((f",{part}" if start else part).encode())
        digest.update(b"]")
        return digest.hexdigest()

    def label_indices(self) -> list[int]:
        """Label index of each row, -1 for rows without a label."""
        index = {name: i for i, name in enumerate(self.class_names)}
        return [-1 if r.label is None else index[r.label] for r in self.rows]


def _deciding(row: Text) -> tuple[Any, ...]:
    own = (row.id, row.text, row.label, row.score, row.split, row.group)
    return own if row.messages is None else (*own, row.messages)


def _label_of(row: dict[str, Any], label_fields: Sequence[str], place: str) -> str | None:
    for name in label_fields:
        value = row.get(name)
        if value is None:
            continue
        if isinstance(value, float) and value.is_integer():  # a column of whole numbers with gaps
            value = int(value)
        if isinstance(value, (list, dict, float)):
            raise DataError(f"{place}: '{name}' is {type(value).__name__}, a label must be a string or a whole number.")
        if str(value) == "":
            raise DataError(f"{place}: '{name}' is empty; leave the field out where a row has no label.")
        return str(value)
    return None


def _score_of(row: dict[str, Any], place: str) -> float | None:
    value = row.get("score")
    if value is None:
        return None
    try:
        score = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{place}: 'score' is {value!r}, not a number.") from error
    if not math.isfinite(score):
        raise DataError(f"{place}: 'score' is {value!r}; it must be finite.")
    return score


def _split_of(row: dict[str, Any], place: str) -> str:
    value = str(row.get("split") or "")
    value = _SPLIT_ALIASES.get(value, value)
    if value and value not in SPLITS:
        raise DataError(f"{place}: split {value!r} is none of {', '.join(SPLITS)}.")
    return value


def _parse_row(row: dict[str, Any], place: str, position: int, label_fields: Sequence[str], keep_fields: bool) -> Text:
    group = next((str(row[name]) for name in _GROUP_FIELDS if row.get(name) is not None), "")
    for name, value in row.items():
        if name != "text" and isinstance(value, str) and NOT_A_NAME.search(value):
            raise DataError(f"{place}: {name!r} holds a zero byte or half of a surrogate pair: repair the row.")
    content = content_of(row, place)
    messages = None if isinstance(content, str) else content
    known = _KNOWN if messages is None else _KNOWN | {"messages"}
    fields = {k: v for k, v in row.items() if k not in known} if keep_fields else None
    return Text(
        id=str(row["id"]) if row.get("id") is not None else f"{position:06d}",
        text=text_of(content),
        label=_label_of(row, label_fields, place),
        split=_split_of(row, place),
        group=group,
        score=_score_of(row, place),
        fields=fields or _NO_FIELDS,
        messages=messages,
    )


def read_dataset(path: str | Path, recipe: Recipe | None = None, seed: int = 0, *, keep_fields: bool = True) -> Dataset:
    """Read labelled texts from a file, or from the ``data/`` folder that ``generate`` wrote.

    A row has a ``text``, or ``messages`` in place of it; where it has both, the text counts. Missing ids, groups
    (near-duplicates together) and splits (70/15/15 by group, or the recipe's shares) are filled in, the same way every
    time for the same file and ``seed``. Without ``keep_fields`` a row's further fields are not held. Raises DataError for
    a bad row, naming file and line; for a label that is none of the recipe's classes; and when two rows share an id.
    """
    source = Path(path)
    if source.is_dir():
        manifest = read_manifest(source, "generate")
        recipe = recipe_from_json(manifest.config["recipe"]) if manifest.config.get("recipe") else recipe
        source = source / manifest.details["combined"]
    label_fields = [recipe.label_field, *LABEL_FIELDS] if recipe else LABEL_FIELDS
    rows: list[Text] = []
    held: dict[str, str] = {}  # one object for equal names
    for place, values in iter_rows(source):
        row = _parse_row(values, place, len(rows), label_fields, keep_fields)
        if recipe is not None and row.label is not None and row.label not in recipe.class_names:
            raise DataError(f"{place}: class {row.label!r} is none of the recipe's: {', '.join(recipe.class_names)}.")
        row.split, row.group = held.setdefault(row.split, row.split), held.setdefault(row.group, row.group)
        row.label = row.label if row.label is None else held.setdefault(row.label, row.label)
        rows.append(row)
    if not rows:
        raise DataError(f"{source} holds no texts.")
    _check_ids(rows, source)
    fill_groups(rows)
    fill_splits(rows, recipe.split.as_tuple() if recipe else (0.70, 0.15, 0.15), seed)
    found = sorted({r.label for r in rows if r.label is not None})
    return Dataset(source.stem, rows, recipe.class_names if recipe else found, recipe)


def _check_ids(rows: Sequence[Text], source: Path) -> None:
    """Raise DataError when two rows share an id. Places are not held: the file is read again to name the two."""
    if all(a != b for a, b in pairwise(sorted(row.id for row in rows))):
        return
    places = [place for place, _ in iter_rows(source)]
    seen: dict[str, str] = {}
    for row, place in zip(rows, places, strict=True):
        if row.id in seen:
            raise DataError(f"{place} has the id {row.id!r} of {seen[row.id]}: ids must differ.")
        seen[row.id] = place


def check_trainable(dataset: Dataset, source: str) -> None:
    """Raise DataError unless every split has texts of every class: known now, and not only after a long capture."""
    labelled = [row for row in dataset.rows if row.label is not None]
    classes = sorted({str(row.label) for row in labelled})
    if not labelled and any(row.score is not None for row in dataset.rows):
        raise DataError(
            f"{source} has scores and no labels, and 'run' compares probes of classes: give each row a label, or use "
            "'capture' and 'train --probe ridge'."
        )
    if len(classes) < 2:
        found = f"only the class {classes[0]!r}" if classes else "no labels"
        raise DataError(f"{source} has {found}: a probe tells at least two classes apart.")
    for split in SPLITS:
        missing = sorted(set(classes) - {str(row.label) for row in labelled if row.split == split})
        if missing:
            raise DataError(
                f"{source} leaves no text of class {missing[0]!r} to split {split!r}: add texts that are not related to "
                "each other, or correct its 'split' and 'group' fields."
            )


def fill_groups(rows: Sequence[Text]) -> None:
    """Give rows without a group one, in place: near-duplicates share theirs."""
    missing = [r for r in rows if not r.group]
    taken = {r.group for r in rows}
    for row, group in zip(missing, near_duplicate_groups([r.whole_text for r in missing]), strict=True):
        name = f"auto-{group:06d}"
        while name in taken:
            name = f"auto-{name}"
        row.group = name


def fill_splits(rows: Sequence[Text], fractions: tuple[float, float, float], seed: int) -> None:
    """Give rows without a split one, in place, whole groups together; a group that has a split already keeps it."""
    of_group = {r.group: r.split for r in rows if r.split}
    missing = [r for r in rows if not r.split and r.group not in of_group]
    assigned = split_by_group([r.group for r in missing], [r.label for r in missing], fractions, seed)
    of_group |= {r.group: split for r, split in zip(missing, assigned, strict=True)}
    for row in rows:
        row.split = row.split or of_group[row.group]


def split_by_group(
    groups: Sequence[str], labels: Sequence[str | None], fractions: tuple[float, float, float], seed: int
) -> list[str]:
    """A split ("train", "val" or "test") for each row: whole groups, every class near its share, seeded.

    Groups are taken in a seeded order, and each goes to the split that is furthest below its share of the classes the
    group holds.
    """
    counts: dict[str, dict[str | None, int]] = {}
    totals: dict[str | None, int] = {}
    for group, label in zip(groups, labels, strict=True):
        of_group = counts.setdefault(group, {})
        of_group[label] = of_group.get(label, 0) + 1
        totals[label] = totals.get(label, 0) + 1
    missing = [{label: share * n for label, n in totals.items()} for share in fractions]
    order = sorted(counts, key=lambda g: sha256_json([seed, g]))
    chosen: dict[str, str] = {}
    for group in sorted(order, key=lambda g: -sum(counts[g].values())):
        need = [
            sum(n * missing[s][label] / (fractions[s] * totals[label]) for label, n in counts[group].items())
            for s in range(len(SPLITS))
        ]
        best = max(range(len(SPLITS)), key=lambda s: need[s])
        for label, n in counts[group].items():
            missing[best][label] -= n
        chosen[group] = SPLITS[best]
    return [chosen[g] for g in groups]


def to_jsonl(rows: Iterable[Text]) -> str:
    """Rows as JSONL, UTF-8 kept as it is, a newline after each."""
    return "".join(json.dumps(r.to_json(), ensure_ascii=False) + "\n" for r in rows)
