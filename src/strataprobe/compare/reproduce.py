"""The commands that make a comparison again, as its report tells them: no path of the machine it was made on.

Folders are named from the one that holds them all. Where they lie further apart than runs do, and for figures of others
that lie elsewhere, a word in capitals stands for the path.
"""

from __future__ import annotations

import os.path
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from strataprobe.manifest import MANIFEST_NAME

# A run's folder and the folder of a stage in it.
_DEEPEST = 2


@dataclass(frozen=True)
class Reproduction:
    """``commands`` for the folder that holds ``held``; ``placeholders`` in them, and what each stands for."""

    commands: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    placeholders: dict[str, str] = field(default_factory=dict)


def reproduction(
    sets: Sequence[tuple[str, Path, Path]],
    published: Sequence[tuple[str, Path]] = (),
    published_blocks: int = 0,
    *,
    seed: int,
) -> Reproduction:
    """How to compare again. ``sets`` have a name, a probes folder and its activations, ``published`` a name and a path."""
    found = Reproduction()
    folders = [path.resolve() for _, *pair in sets for path in pair]
    root = Path(os.path.commonpath(folders)) if folders else Path("/")

    def word_for(path: Path, placeholder: str, meaning: str) -> str:
        path = path.resolve()
        if root == Path(root.anchor) or not path.is_relative_to(root) or len(path.parts) - len(root.parts) > _DEEPEST:
            found.placeholders[placeholder] = meaning
            return placeholder
        name = path.relative_to(root).as_posix()
        found.held.extend([name] if name not in found.held else [])
        return shlex.quote(name)

    parts = ["strataprobe compare"]
    for i, (name, probes, activations) in enumerate(sets, start=1):
        stages = {
            "activations": (activations, word_for(activations, f"ACTIVATIONS_{i}", f"the activations of {name}")),
            "probes": (probes, word_for(probes, f"PROBES_{i}", f"the probes of {name}")),
        }
        found.commands.extend(
            f"strataprobe verify {word}" for path, word in stages.values() if (path / MANIFEST_NAME).is_file()
        )
        parts += [f"--probes {stages['probes'][1]}", f"--activations {stages['activations'][1]}"]
    for i, (name, path) in enumerate(published, start=1):
        parts.append(f"--published {word_for(path, f'PUBLISHED_{i}', f'the published figures {name}')}")
    if published:
        parts.append(f"--published-blocks {published_blocks}")
    found.commands.append(" ".join([*parts, "--out again", f"--seed {seed}"]))
    return found
