"""Who writes the texts: one small protocol, and the backends that fulfil it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from strataprobe.errors import OptionError
from strataprobe.generate.asking import Asking
from strataprobe.generate.prompts import Messages
from strataprobe.manifest import ModelIdentity

NAMES = ("builtin", "ollama", "openai", "transformers")
OLLAMA_URL = "http://127.0.0.1:11434/v1"
OLLAMA_MODEL = "gemma3:4b"


@dataclass(frozen=True)
class BackendOptions:
    """What a language model is asked with. ``llm`` None means the backend's own choice, which is said."""

    base_url: str | None = None
    llm: str | None = None
    parallel: int = 8
    temperature: float = 1.0
    max_new_tokens: int = 300
    timeout_s: float = 120.0
    max_attempts: int = 5
    batch_size: int | str = "auto"
    dtype: str = "auto"
    device: str = "auto"


class Backend(Protocol):
    """A writer of texts. ``identity`` says which model: its name holds no path, and stands in every row."""

    name: str
    identity: ModelIdentity

    def write(self, asking: Asking, seed: int) -> None:
        """Get answers for the open cells and settle each, until none is open or no attempts are left.

        Raises BackendError when no more answers can be had; what was settled is on disk.
        """

    def answers(self, prompts: Sequence[Messages]) -> list[str | None]:
        """One short answer for each prompt, in order, as sure as the model can be (temperature 0); None where none came."""

    def details(self) -> dict[str, Any]:
        """What is worth recording of how it went: requests, retries."""


def check_name(name: str) -> None:
    """Raise OptionError for an unknown backend."""
    if name not in NAMES:
        raise OptionError(f"--backend {name!r} is none of {', '.join(NAMES)}.")


def default_llm(name: str, options: BackendOptions, model: str) -> str | None:
    """The model that ``open_backend`` will use; None where the server decides."""
    if name == "builtin":
        return None
    return options.llm or {"ollama": OLLAMA_MODEL, "transformers": model}.get(name)


def open_backend(name: str, options: BackendOptions, model: str, option: str = "--llm") -> Backend:
    """The backend of that name, ready to write. ``model`` is what the transformers backend loads unless ``llm`` is given,
    ``option`` what names the model on the command line.

    Raises BackendError or ModelError when the server or the model is not there.
    """
    if name == "transformers":
        from strataprobe.generate.backends.inprocess import InProcess

        return InProcess(options, model)
    from strataprobe.generate.backends.server import Server

    return Server(name, options, option=option)
