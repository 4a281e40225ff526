"""Options that several commands share, and the configuration file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from strataprobe.errors import OptionError
from strataprobe.progress import set_quiet

_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\"}
_ESCAPED = re.compile(r"\\([nt\\])")
_STAGES_OF_RUN = ("generate", "capture", "train", "compare", "run")


def _apply_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make the file's sections the defaults of this command; flags win. An unknown section or key is refused."""
    if path is None:
        return None
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"--config {path} cannot be read: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"--config {path} is not valid TOML: {error}.") from error
    command = str(context.info_name)
    known_sections = set(context.parent.command.commands) if context.parent else {command}  # type: ignore[attr-defined]
    for section in document:
        if section not in known_sections:
            raise OptionError(
                f"--config {path}: {section!r} is no command; sections are {', '.join(sorted(known_sections))}."
            )
    sections = _STAGES_OF_RUN if command == "run" else (command,)
    known = {p.name: p for p in context.command.params if p.name}
    defaults: dict[str, Any] = {}
    for section in sections:
        values = document.get(section, {})
        if not isinstance(values, dict):
            raise OptionError(f"--config {path}: [{section}] must be a section of options.")
        for key, value in values.items():
            name = key.replace("-", "_")
            if name not in known or name == "config":
                raise OptionError(
                    f"--config {path}: [{section}] has no option {key!r}; see 'strataprobe {command} --help'."
                )
            defaults[name] = value
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def _apply_quiet(quiet: bool) -> bool:
    set_quiet(quiet)
    return quiet


Config = Annotated[
    Path | None,
    typer.Option(
        "--config", callback=_apply_config, is_eager=True, help="TOML file with a section a stage; flags win."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", callback=_apply_quiet, help="No progress and no notes on stderr.")]
Json = Annotated[bool, typer.Option("--json", help="One machine-readable document on stdout.")]
Model = Annotated[str, typer.Option("--model", help="Model id, local folder, or 'demo'.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of every random choice.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write.")]
Layers = Annotated[str | None, typer.Option("--layers", help="Layers, such as 1-10,20; all unless given.")]
Readout = Annotated[
    str,
    typer.Option(
        "--readout",
        help="last, mean, last-text, last-assistant, or several with commas, the primary one first; auto.",
    ),
]
Suffix = Annotated[
    str | None,
    typer.Option("--suffix", help=r"Text appended before reading; the recipe's unless given. \n, \t, \\ are escapes."),
]
Prefix = Annotated[str, typer.Option("--prefix", help="Text put before each text.")]
Template = Annotated[
    str, typer.Option("--template", help="none, or chat: the text in a user turn, or a conversation under 'messages'.")
]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", help="Cut longer texts at their end, and say so.")]
BatchTokens = Annotated[str, typer.Option("--batch-tokens", help="Tokens in a batch, padding counted; auto.")]
Dtype = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or mixed.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
Eval = Annotated[list[str] | None, typer.Option("--eval", help="NAME=FILE: labelled text from elsewhere; repeatable.")]
KeepTokens = Annotated[bool, typer.Option("--keep-tokens", help="Keep every token's vector too, for short corpora.")]
NPerClass = Annotated[int | None, typer.Option("--n-per-class", help="Texts a class; the recipe's unless given.")]
Backend = Annotated[
    str, typer.Option("--backend", help="Who writes the texts: builtin (no model), ollama, openai or transformers.")
]
BaseUrl = Annotated[
    str | None,
    typer.Option("--base-url", help="Address of an OpenAI-compatible server, such as http://localhost:8000/v1."),
]
Llm = Annotated[
    str | None, typer.Option("--llm", help="Model that writes: its name on the server; in process an id or folder.")
]
Parallel = Annotated[int, typer.Option("--parallel", min=1, max=1024, help="Requests to the server at a time.")]
MaxAttempts = Annotated[
    int, typer.Option("--max-attempts", min=1, help="Answers to try for a text before it is reported missing.")
]
Temperature = Annotated[
    float, typer.Option("--temperature", min=0.0, max=5.0, help="Temperature of the writing model.")
]
MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Tokens an answer may have.")]
BatchSize = Annotated[str, typer.Option("--batch-size", help="Texts at a time of the transformers backend; auto.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for an answer of the server.")]
JudgeModel = Annotated[
    str | None,
    typer.Option("--judge", help="Second model that labels the texts anew; the audit tells how far it agrees."),
]
AllowMissing = Annotated[
    bool, typer.Option("--allow-missing", help="Finish with fewer texts when some are rejected time after time.")
]
ProbesDir = Annotated[Path, typer.Option("--probes", help="Folder that 'train' wrote, or one of its layer_K folders.")]
Layer = Annotated[int | None, typer.Option("--layer", help="Layer to read; the best one unless given.")]


def backend_options(given: Mapping[str, Any]) -> Any:
    """The writing options among a command's own, as ``BackendOptions``. Raises OptionError for a bad batch size."""
    from strataprobe.generate.backends import BackendOptions

    values = {f.name: given[f.name] for f in fields(BackendOptions) if f.name in given}
    size = values.pop("batch_size")
    if size != "auto" and not (size.isdecimal() and int(size) > 0):
        raise OptionError(f"--batch-size {size!r} is neither auto nor a number of texts.")
    return BackendOptions(**values, timeout_s=given["timeout"], batch_size="auto" if size == "auto" else int(size))


def parse_readouts(value: str) -> list[str] | None:
    """Readouts in order; None for "auto"."""
    return None if value == "auto" else [part.strip() for part in value.split(",") if part.strip()]


def parse_evals(values: list[str] | None) -> dict[str, Path]:
    """Files by name from ``NAME=FILE`` pairs. Raises OptionError for another form or a name given twice."""
    found: dict[str, Path] = {}
    for value in values or []:
        name, equals, file = value.partition("=")
        if not equals or not name or not file:
            raise OptionError(f"--eval {value!r} is not NAME=FILE.")
        if name in found:
            raise OptionError(f"--eval names {name!r} twice.")
        found[name] = Path(file)
    return found


def unescape(text: str | None) -> str | None:
    r"""The text with ``\n``, ``\t`` and ``\\`` typed on a command line turned into a newline, a tab and a backslash."""
    return text if text is None else _ESCAPED.sub(lambda match: _ESCAPES[match[1]], text)
