"""Where a server is, and the sentences that are said when it is not there or denies what is asked."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from strataprobe.errors import OptionError
from strataprobe.generate.backends import OLLAMA_URL
from strataprobe.generate.backends.failures import Denied, Failure, Gone, printable

KEY_VARIABLE = "OPENAI_API_KEY"
_EXAMPLES = (
    "http://127.0.0.1:8000/v1 (vLLM), http://127.0.0.1:8080/v1 (llama.cpp) or http://127.0.0.1:1234/v1 (LM Studio)"
)
_NO_SUCH_MODEL = re.compile(r"\bmodel\b.*\b(?:not found|not exist)|\bpinned to\b", re.IGNORECASE)
_MOST_LISTED = 12
_NEAR = (".localhost", ".local", ".lan", ".internal", ".home.arpa")


@dataclass(frozen=True)
class Place:
    """A server: the backend's name, "openai" or "ollama", and the address of its API."""

    name: str
    url: str

    @property
    def shown(self) -> str:
        """The address without a user name or password in it."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()

    @property
    def in_clear(self) -> bool:
        """Whether what is sent there goes unencrypted through other people's networks."""
        parts = urlsplit(self.url)
        return parts.scheme == "http" and not is_near(parts.hostname or "")

    def start(self, model: str) -> str:
        """How such a server is started."""
        if self.name == "ollama":
            return "`ollama serve`"
        return f"e.g. `vllm serve {printable(model) or 'MODEL'}`, `llama-server -m FILE` or LM Studio's server"


def checked_url(name: str, base_url: str | None) -> str:
    """The address to use for the backend ``name``. Raises OptionError when there is none, or what is given cannot be one."""
    if base_url is None and name == "ollama":
        return OLLAMA_URL
    if base_url is None:
        raise OptionError(f"--backend {name} needs the address of the server: --base-url ADDRESS, such as {_EXAMPLES}.")
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        shown = without_secrets(base_url)
        raise OptionError(f"--base-url {shown!r} is not the address of a server, such as {_EXAMPLES}.")
    return base_url


def without_secrets(url: str) -> str:
    """An address, mistyped or not, without a user name, a password and a query."""
    scheme = re.match(r"\s*(?:[A-Za-z][\w+.-]*:)?/+", url)
    start = scheme.group() if scheme else ""
    return printable(start + re.split(r"[?#]", url[len(start) :].rpartition("@")[2])[0])


def is_near(host: str) -> bool:
    """Whether a host, by its name or address, is this machine or one of its own network."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.rstrip(".").lower().endswith(_NEAR)


def known_as(wanted: str, models: Sequence[str]) -> str | None:
    """The name under which a server lists a model, None where it does not, or there are several of that file name."""
    for name in (wanted, f"{wanted}:latest"):
        if name in models:
            return name
    alike = [name for name in models if without_folders(name) == without_folders(wanted)]
    return alike[0] if len(alike) == 1 else None


def without_folders(model: str) -> str:
    """A model's name; of a path, the last part alone."""
    path = re.match(r"[/~.\\]|[A-Za-z]:[/\\]|file:", model) or model.lower().endswith(".gguf")
    if path or ("/" in model and Path(model).exists()):
        return re.split(r"[/\\]", model.rstrip("/\\"))[-1] or "model"
    return model


def listing(models: Sequence[str] | None) -> str:
    """The names of models, the first dozen where there are many."""
    known = models or ()
    more = f" and {len(known) - _MOST_LISTED} more" if len(known) > _MOST_LISTED else ""
    return ", ".join(map(printable, known[:_MOST_LISTED])) + more or "none"


def no_such_model(
    place: Place, model: str, models: Sequence[str] | None, option: str, said: str = "", kept: str = ""
) -> str:
    """What to say when a server has not the model that ``option`` named; ``said`` are its own words."""
    known = f"there: {listing(models)}" if models else ""
    about = "; ".join(part for part in (said, known) if part)
    shown = printable(model)
    return f"The server at {place.shown} has no model {shown!r} ({about}){kept}; name one that it has with {option}."


def sentence(
    problem: Gone | Denied | Failure, place: Place, model: str, models: list[str] | None, kept: str, option: str
) -> str:
    """What to say of a server that is gone, was never there, or denies what is asked.

    ``kept`` says what is there already, "" before the first request for a text; ``models`` are those the server has;
    ``option`` is what the user named the model with.
    """
    if isinstance(problem, Denied):
        return _denial(problem, place, model, models, kept, option)
    failure = problem.failure if isinstance(problem, Gone) else problem
    where, start = place.shown, place.start(model)
    if failure.busy:
        return (
            f"The server at {where} takes no more requests ({failure.shown}){kept}; wait, or ask for fewer at a time with"
            " --parallel, then run the same command."
        )
    if kept:
        longer = ", or give it longer with --timeout" if failure.kind == "timeout" else ""
        return (
            f"The server at {where} stopped answering ({failure.shown}){kept}; start it again ({start}){longer}, then run"
            " the same command."
        )
    if failure.kind in ("connection", "timeout"):
        return f"No server answers at {where} ({failure.shown}): start it ({start}), or mend --base-url."
    return _other_kind(place, failure.shown, model, kept)


def _denial(denied: Denied, place: Place, model: str, models: list[str] | None, kept: str, option: str) -> str:
    status, where = f"status {denied.status}", place.shown
    if denied.status == 401 or (denied.status == 403 and not denied.is_policy):
        said = denied.shown if denied.status == 403 else status
        if place.name == "ollama":
            return (
                f"The server at {where} wants a key ({said}){kept}, and --backend ollama sends none: use --backend openai"
                f" with --base-url {where} and {KEY_VARIABLE}."
            )
        return f"The server at {where} wants a valid key ({said}){kept}; set {KEY_VARIABLE} and run the same command."
    if denied.status == 200 or (denied.status in (404, 405) and not denied.said):
        return _other_kind(place, status, model, kept)
    if denied.status == 404 or _NO_SUCH_MODEL.search(denied.said):
        return no_such_model(place, model, models, option, denied.shown, kept)
    return (
        f"The server at {where} denies the request ({denied.shown}){kept}; mend what it complains of and run the same"
        " command."
    )


def _other_kind(place: Place, shown: str, model: str, kept: str) -> str:
    return (
        f"What answers at {place.shown} is not an OpenAI-compatible server ({shown}){kept}; mend --base-url, which usually"
        f" ends in /v1, or start one ({place.start(model)})."
    )
