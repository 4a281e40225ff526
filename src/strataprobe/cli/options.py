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
from strataprobe.progress import note, set_quiet

_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\"}
_ESCAPED = re.compile(r"\\([nt\\])")
_STAGES_OF_RUN = ("generate", "capture", "train", "compare", "run")
# Options of the train stage whose names are another stage's in ``run``.
_TRAIN_IN_RUN = {"batch_size": "train_batch_size", "device": "train_device"}
_ANSWERS = "strataprobe.answers"
# Options that not every family has: their default, and the families.
_OF_SOME: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "cs": (None, ("logistic", "joint")),
    "class_weight": ("none", ("logistic", "multihead")),
    "target": (None, ("ridge",)),
}


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
    known = {p.name for p in context.command.params if p.name} - {"config"}
    defaults: dict[str, Any] = {}
    for section in sections:
        for key, value in _section(document, section, path, context).items():
            name = key.replace("-", "_")
            if command == "run" and section == "train":
                name = _TRAIN_IN_RUN.get(name, name)
            if name not in known:
                raise OptionError(
                    f"--config {path}: [{section}] has no option {key!r}; see 'strataprobe {command} --help'."
                )
            if defaults.setdefault(name, value) != value:
                raise OptionError(
                    f"--config {path}: [{section}] has another {key!r} than a section before it, and run takes one."
                )
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def _section(document: dict[str, Any], section: str, path: Path, context: typer.Context) -> dict[str, Any]:
    """The options of a section; brije's names in [train] become ours, and what has no use is answered later."""
    values = document.get(section, {})
    if not isinstance(values, dict):
        raise OptionError(f"--config {path}: [{section}] must be a section of options.")
    if section != "train":
        return values
    from strataprobe.probes.origin_options import from_origin

    try:
        found, answers = from_origin(values)
    except OptionError as error:
        raise OptionError(f"--config {path}: [train]: {error}") from error
    context.meta[_ANSWERS] = answers
    return found


def say_answers(context: typer.Context) -> None:
    """Print what the configuration file's settings without use are answered with."""
    for answer in context.meta.get(_ANSWERS, []):
        note(answer)


def _apply_quiet(quiet: bool) -> bool:
    set_quiet(quiet)
    return quiet


def _our_name(probe: str) -> str:
    """The family that brije's name for a probe means; ours as they are."""
    from strataprobe.probes.origin_options import PROBE_TYPES

    return PROBE_TYPES.get(probe, probe)


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
Probe = Annotated[
    str,
    typer.Option(
        "--probe",
        callback=_our_name,
        help="logistic, mass-mean, mass-mean-iid, ridge, multihead, or joint (several recipes).",
    ),
]
Folds = Annotated[
    int, typer.Option("--folds", min=0, help="Folds of cross-validation; 0 measures on the validation rows alone.")
]
Cs = Annotated[
    str | None, typer.Option("--cs", help="Values of C to try, with commas, such as 0.001,0.01; ten unless given.")
]
ClassWeight = Annotated[
    str, typer.Option("--class-weight", help="none, or balanced: a class weighs as much as the rest, for rare classes.")
]
Target = Annotated[
    str | None, typer.Option("--target", help="What ridge fits: classes, values, or auto: values where there are any.")
]
Epochs = Annotated[int | None, typer.Option("--epochs", min=1, help="multihead: at most so many; 50.")]
LearningRate = Annotated[float | None, typer.Option("--learning-rate", help="multihead: first step size; 0.0005.")]
WeightDecay = Annotated[float | None, typer.Option("--weight-decay", help="multihead: weight decay; 0.001.")]
TrainBatchSize = Annotated[int | None, typer.Option("--batch-size", min=1, help="multihead: rows a step; 32.")]
EarlyStoppingPatience = Annotated[
    int | None,
    typer.Option("--early-stopping-patience", min=1, help="multihead: epochs without a lower validation loss; 10."),
]
Fpr = Annotated[
    float | None,
    typer.Option("--fpr", help="False-positive rate a threshold may have, such as 0.01; the best F1 unless given."),
]
CalibrationMethod = Annotated[str, typer.Option("--calibration", help="platt or temperature.")]
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


def train_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the probe family among a command's own; those it has no use for are answered in a line.

    Raises OptionError for an unknown probe, an option of another one, values of C that are no numbers, and for one fold.
    """
    from strataprobe.probes.origin_options import STEPWISE, family_options

    _check_family(given)
    if given["folds"] == 1:
        raise OptionError("--folds 1 cannot be cross-validated: give 2 or more, or 0 for no cross-validation.")
    options, answer = family_options(
        given["probe"],
        Cs=parse_numbers(given["cs"], "--cs"),
        class_weight=given["class_weight"],
        target=given["target"],
        stepwise={name: given[name] for name in STEPWISE},
    )
    if answer:
        note(answer)
    if given["probe"] in ("multihead", "joint") and given["device"] not in ("auto", "cpu"):
        note(f"{given['probe']}: fits are made on the CPU: no device needed; ignored.")
    return options


def _check_family(given: Mapping[str, Any]) -> None:
    from strataprobe.probes.families import known_families

    known = [*known_families(), "joint"]
    if given["probe"] not in known:
        raise OptionError(f"no probe is called {given['probe']!r}; there are: {', '.join(known)}.")
    for name, (default, families) in _OF_SOME.items():
        if given[name] != default and given["probe"] not in families:
            flag = f"--{name.replace('_', '-')}"
            raise OptionError(f"{flag} is for --probe {' or '.join(families)}, not {given['probe']}: leave it out.")


def parse_numbers(value: str | None, name: str) -> list[float] | None:
    """Numbers with commas between, as typed or as a list in a configuration file. Raises OptionError for others."""
    if value is None:
        return None
    try:
        return [float(part) for part in value.strip("[] ").split(",")]
    except ValueError:
        raise OptionError(f"{name} {value!r} cannot be read: write numbers with commas, such as 0.001,0.01.") from None


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
