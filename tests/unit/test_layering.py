"""A module imports only from rows above its own; what reads models and what trains meet in files."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
SOURCE = REPO / "src" / "strataprobe"
ROWS = (
    ("errors", "locks", "progress", "aucvariance", "intervals", "metrics", "classmeasures"),
    ("manifest", "recipe", "neardup", "bagofwords", "content", "textfiles"),
    ("stagefolder", "dataset"),
    ("modelerrors", "modelfiles", "devices", "mixed", "models"),
    ("layerfile", "tokenfile", "store"),
    ("generate",),
    ("capture",),
    ("probes",),
    ("compare",),
    ("predict",),
    ("backup", "pipeline", "estimate"),
    ("serve",),
    ("cli",),
    ("__main__",),
)
PLACE = {name: (row, column) for row, names in enumerate(ROWS) for column, name in enumerate(names)}
APART = {("capture", "probes"), ("probes", "capture")}


def imports_of(source: str, module: str) -> list[tuple[int, str]]:
    """(line, full module name) of each import, inside functions too; those for type checking alone left out."""
    tree = ast.parse(source)
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(module.split(".")[: -node.level]) if node.level else ""
            name = ".".join(part for part in (base, node.module) if part)
            if name == "strataprobe":
                found += [(node.lineno, f"strataprobe.{alias.name}") for alias in node.names]
            else:
                found.append((node.lineno, name))
    return found


def violations(source: str, module: str) -> list[str]:
    """A line for each import by ``module`` ("strataprobe.capture.run") that breaks the order of the rows."""
    mine = module.split(".")[1]
    problems = []
    for line, name in imports_of(source, module):
        parts = name.split(".")
        if parts[0] != "strataprobe" or len(parts) < 2 or parts[1] == mine or parts[1] == "__version__":
            continue
        other = parts[1]
        if other not in PLACE or PLACE[other] > PLACE[mine] or (mine, other) in APART:
            problems.append(f"{module}, line {line}: {mine} imports {other}")
    return problems


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(("strataprobe", *parts))
        if name != "strataprobe.__init__":
            found.append((name, path))
    return found


def test_every_module_has_its_row() -> None:
    assert {name.split(".")[1] for name, _ in modules()} <= PLACE.keys()


def test_a_module_imports_only_from_rows_above_it_and_its_own_folder() -> None:
    problems = [p for name, path in modules() for p in violations(path.read_text("utf-8"), name)]
    assert problems == []


@pytest.mark.parametrize(
    ("module", "line", "found"),
    [
        ("strataprobe.dataset", "from strataprobe.store import span", "dataset imports store"),
        ("strataprobe.dataset", "import strataprobe.store", "dataset imports store"),
        ("strataprobe.dataset", "from strataprobe import store", "dataset imports store"),
        ("strataprobe.errors", "from strataprobe.manifest import Manifest", "errors imports manifest"),
        ("strataprobe.probes.run", "from strataprobe.capture.memory import capture", "probes imports capture"),
        ("strataprobe.capture.run", "def f():\n    from strataprobe.probes import solver", "capture imports probes"),
        ("strataprobe.capture.run", "from ..predict import scorer", "capture imports predict"),
        ("strataprobe.compare.run", "from strataprobe.utils import x", "compare imports utils"),
        ("strataprobe.generate.run", "from strataprobe.cli.app import app", "generate imports cli"),
    ],
)
def test_a_planted_violation_is_found(module: str, line: str, found: str) -> None:
    assert [p.split(": ")[1] for p in violations(f"import numpy\n{line}\n", module)] == [found]


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("strataprobe.capture.run", "from strataprobe.capture.tokens import Tokenizer"),
        ("strataprobe.capture.run", "from .tokens import Tokenizer"),
        ("strataprobe.predict.scorer", "from strataprobe.capture.memory import capture"),
        ("strataprobe.dataset", "if TYPE_CHECKING:\n    from strataprobe.store import span"),
        ("strataprobe.manifest", "from strataprobe.errors import StageError"),
        ("strataprobe.dataset", "import json"),
    ],
)
def test_what_the_rule_allows_is_not_found(module: str, line: str) -> None:
    assert violations(f"{line}\n", module) == []


def test_there_is_no_drawer_for_everything() -> None:
    names = {path.stem for path in SOURCE.rglob("*.py")} | {path.name for path in SOURCE.rglob("*") if path.is_dir()}
    assert not names & {"utils", "common", "helpers", "util", "misc"}


HEAVY = ("torch", "transformers", "h5py", "sklearn", "matplotlib", "plotly")


@pytest.mark.parametrize(
    "statement",
    [
        "import strataprobe; dir(strataprobe)",
        "import strataprobe.recipe; strataprobe.recipe.load_recipe('sentiment')",
        "import strataprobe.dataset",
        "from strataprobe.cli.app import app",
        "import sys; sys.argv = ['strataprobe', '--help']; from strataprobe.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code in (0, None)",
        "import sys; sys.argv = ['strataprobe', 'capture', '--help']; from strataprobe.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code in (0, None)",
    ],
    ids=["the package", "recipes", "texts", "the command line", "--help", "capture --help"],
)
def test_heavy_libraries_are_not_imported_before_they_are_used(statement: str) -> None:
    code = f"{statement}\nimport sys\nprint('heavy:', [n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_heavy_libraries_are_imported_by_what_uses_them() -> None:
    code = f"import strataprobe.store, sys; print([n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "h5py" in done.stdout
