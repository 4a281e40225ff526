"""docs/cli.md is what --help prints. To write it anew: STRATAPROBE_WRITE_DOCS=1 pytest tests/docs"""

from __future__ import annotations

import os
import re
from pathlib import Path

from typer.testing import CliRunner

from strataprobe.cli.app import app

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"


def rendered() -> str:
    """The whole page: the list of commands, then each command's help."""
    runner = CliRunner(env={"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "TERMINAL_WIDTH": "100"})
    verbs = [command.callback.__name__ for command in app.registered_commands if command.callback]
    parts = ["# Commands\n\nWhat `--help` prints.\n"]
    for verb in ("", *verbs):
        out = runner.invoke(app, [verb, "--help"] if verb else ["--help"], prog_name="strataprobe").output
        text = "\n".join(line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", out).splitlines()).strip()
        parts.append(f"## strataprobe {verb}".rstrip() + f"\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def test_the_page_of_commands_is_what_help_prints() -> None:
    page = rendered()
    if os.environ.get("STRATAPROBE_WRITE_DOCS"):
        PAGE.write_text(page, encoding="utf-8")
    assert PAGE.read_text("utf-8") == page
