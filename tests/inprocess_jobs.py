"""Jobs of the backend ``transformers`` for tests, with models small enough to write a text in milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grammar_decoder import START, Chain, grammar_decoder
from strataprobe.generate.acceptance import Acceptance
from strataprobe.generate.asking import Asking
from strataprobe.generate.backends import BackendOptions
from strataprobe.generate.backends.inprocess import InProcess
from strataprobe.generate.cells import make_cells
from strataprobe.generate.ledger import LEDGER_NAME, Entry, Ledger
from strataprobe.generate.prompts import Messages
from strataprobe.models import LoadedModel, wrap_model
from strataprobe.progress import Progress
from strataprobe.recipe import Recipe, load_recipe

SENTIMENT = load_recipe("sentiment")
ENOUGH = 40


def job(
    model: LoadedModel | str,
    folder: Path,
    *,
    n: int = 8,
    seed: int = 0,
    attempts: int = ENOUGH,
    recipe: Recipe = SENTIMENT,
    **options: Any,
) -> tuple[list[Entry], InProcess]:
    """The ledger's entries after one job, and the backend that made them."""
    backend = InProcess(BackendOptions(**{"max_new_tokens": 24, "batch_size": 5, **options}), model)
    plan = make_cells(recipe, n, seed)
    with Ledger(folder / LEDGER_NAME) as ledger, Progress("write", len(plan), "texts") as bar:
        backend.write(Asking(recipe, plan, Acceptance(recipe), ledger, bar, attempts), seed)
    return ledger.entries, backend


def loop(text: str, **more: float) -> LoadedModel:
    """A model that writes one token for ever, or goes on as ``more`` says."""
    chain: Chain = {START: {text: 1.0}, text: more or {text: 1.0}}
    return wrap_model(*grammar_decoder(chain))


def asks(*contents: str) -> list[Messages]:
    return [[{"role": "user", "content": content}] for content in contents]
