"""A second opinion: another model reads the texts and says which class each shows; the audit reports the agreement."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from strataprobe.dataset import Text
from strataprobe.generate.backends import Backend, BackendOptions, open_backend
from strataprobe.generate.cells import seeded
from strataprobe.generate.prompts import Messages
from strataprobe.manifest import write_atomic
from strataprobe.progress import Progress, note
from strataprobe.recipe import Recipe

JUDGED_NAME = "judged.jsonl"
# So many texts at most are judged, the same number of each class.
MAX_TEXTS = 1_000
_AT_ONCE = 64
_N_SHOWN = 20


@dataclass(frozen=True)
class Judge:
    """Asks ``backend`` for the class of texts, in the terms of the recipe."""

    backend: Backend

    def agreement(self, recipe: Recipe, rows: Sequence[Text], folder: Path) -> dict[str, Any]:
        """How often the judge names the label that a text was written for: overall, by class, and Cohen's kappa.

        Answers are appended to a file in ``folder`` as they come in, and those there are not asked for again. An answer
        that names no class, or several, counts as disagreement and is counted apart.
        """
        chosen = _sample(rows, recipe.class_names)
        answers = self._ask(recipe, chosen, folder / JUDGED_NAME)
        pairs = [(str(row.label), class_named(answers[row.id], recipe.class_names)) for row in chosen]
        right = [label == said for label, said in pairs]
        by_class: dict[str, list[bool]] = {}
        for (label, _), agrees in zip(pairs, right, strict=True):
            by_class.setdefault(label, []).append(agrees)
        agreement = round(sum(right) / len(right), 4) if right else 0.0
        note(f"judge: {self.backend.identity.name} agrees with {agreement:.1%} of {len(chosen):,} labels.")
        return {
            "model": self.backend.identity.name,
            "n": len(chosen),
            "n_unclear": sum(said is None for _, said in pairs),
            "agreement": agreement,
            "kappa": _kappa(pairs),
            "by_class": {name: round(sum(own) / len(own), 4) for name, own in sorted(by_class.items())},
            "disagreements": [row.id for row, agrees in zip(chosen, right, strict=True) if not agrees][:_N_SHOWN],
        }

    def _ask(self, recipe: Recipe, rows: Sequence[Text], path: Path) -> dict[str, str]:
        known = _read(path, self.backend.identity.name)
        left = [row for row in rows if row.id not in known]
        with Progress("judge", len(rows), "texts", len(rows) - len(left)) as bar:
            for start in range(0, len(left), _AT_ONCE):
                batch = left[start : start + _AT_ONCE]
                said = self.backend.answers([question(recipe, row.text) for row in batch])
                with path.open("a", encoding="utf-8", newline="\n") as file:
                    for row, answer in zip(batch, said, strict=True):
                        known[row.id] = answer or ""
                        value = {"id": row.id, "judge": self.backend.identity.name, "answer": known[row.id]}
                        file.write(json.dumps(value, ensure_ascii=False) + "\n")
                bar.advance(len(batch))
        return known


def open_judge(model: str, backend: str, options: BackendOptions) -> Judge:
    """The judge ``model``, on the server that writes; beside the built-in writer on ``--base-url``, else on Ollama."""
    name = backend if backend != "builtin" else ("openai" if options.base_url else "ollama")
    return Judge(open_backend(name, replace(options, llm=model), model, "--judge"))


def question(recipe: Recipe, text: str) -> Messages:
    """The messages that ask for the class of one text."""
    listed = "\n".join(
        f"- {c.name}: {c.description}".rstrip(": ") for c in sorted(recipe.classes, key=lambda c: c.name)
    )
    return [
        {
            "role": "user",
            "content": f"Read this text.\n\n{text}\n\nWhich one of these does it show?\n{listed}\n\n"
            "Answer with that one name, exactly as it is written above, and nothing else.",
        }
    ]


def class_named(answer: str, names: Sequence[str]) -> str | None:
    """The one class that an answer names, None when it names none or several."""
    words = f" {_plain(answer)} "
    found = [name for name in names if f" {_plain(name)} " in words]
    longest = [n for n in found if not any(n != o and f" {_plain(n)} " in f" {_plain(o)} " for o in found)]
    return longest[0] if len(longest) == 1 else None


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def _sample(rows: Sequence[Text], names: Sequence[str]) -> list[Text]:
    """At most ``MAX_TEXTS`` rows in their order, the same number of each class, seeded."""
    share = max(MAX_TEXTS // len(names), 1)
    chosen: set[str] = set()
    for name in names:
        own = [row.id for row in rows if row.label == name]
        chosen.update(seeded("judge", name).sample(own, min(share, len(own))))
    return [row for row in rows if row.id in chosen]


def _kappa(pairs: Sequence[tuple[str, str | None]]) -> float | None:
    """Cohen's kappa of labels and answers, an unclear answer being a class of its own; None where it has no meaning."""
    n = len(pairs)
    labels, said = Counter(label for label, _ in pairs), Counter(s or "" for _, s in pairs)
    by_chance = sum(labels[name] * said[name] for name in labels) / n**2 if n else 1.0
    if by_chance >= 1.0:
        return None
    observed = sum(label == s for label, s in pairs) / n
    return round((observed - by_chance) / (1 - by_chance), 4)


def _read(path: Path, judge: str) -> dict[str, str]:
    """The answers of that judge that are there, by the text's id; a torn last line and another judge's are dropped."""
    if not path.exists():
        return {}
    kept = {}
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            value = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            value = None
        if isinstance(value, dict) and isinstance(value.get("id"), str) and value.get("judge") == judge:
            kept[value["id"]] = (line.decode("utf-8"), str(value.get("answer", "")))
    write_atomic(path, "".join(line for line, _ in kept.values()))
    return {name: answer for name, (_, answer) in kept.items()}
