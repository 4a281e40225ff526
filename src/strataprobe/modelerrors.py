"""What goes wrong with a model: on the way to it, as the sentence that helps (login, licence, network, name, disk), and
when a batch does not fit into memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from strataprobe.errors import LoginError, ModelError

if TYPE_CHECKING:
    import torch

# As the libraries below torch put it where they raise a plain RuntimeError.
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the device or the host was not enough: a smaller batch may fit."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def give_back_memory(device: torch.device) -> None:
    """Let go of what a failed batch left: to be called once its error is gone, which held the tensors."""
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def explained(name: str, error: BaseException) -> ModelError:
    """What went wrong while loading, as the sentence that helps."""
    from huggingface_hub import errors as hub

    chain: list[BaseException] = []
    step: BaseException | None = error
    while step is not None and step not in chain:
        chain.append(step)
        step = step.__cause__ or step.__context__
    statuses = {getattr(getattr(e, "response", None), "status_code", None) for e in chain}
    text = " ".join(str(e) for e in chain)
    if any(isinstance(e, hub.GatedRepoError) for e in chain) or "gated repo" in text:
        if 403 in statuses or "awaiting a review" in text or "not in the authorized list" in text:
            return LoginError(
                f"your account may not read {name} yet: accept its licence at huggingface.co/{name}, "
                "then run this again."
            )
        return LoginError(
            f"{name} needs a login: accept its licence at huggingface.co/{name}, then run "
            "'hf auth login' or set HF_TOKEN."
        )
    offline = (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, ConnectionError, TimeoutError)
    broken = any(base.__name__ == "TransportError" for e in chain for base in type(e).__mro__)  # of the HTTP library
    if broken or any(isinstance(e, offline) for e in chain) or "couldn't connect" in text or "offline mode" in text:
        return ModelError(
            f"{name} is not on this machine and the model hub cannot be reached: check the network, or "
            "give the folder of a downloaded model."
        )
    if any(isinstance(e, hub.RepositoryNotFoundError) for e in chain) or 401 in statuses or 404 in statuses:
        return ModelError(
            f"there is no model {name} on the hub, or it is private: check the name, or log in with 'hf auth login'."
        )
    if any(isinstance(e, OSError) and e.errno == 28 for e in chain):
        return ModelError(
            f"no disk space left while downloading {name}: free some space, or set HF_HOME to a larger disk."
        )
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ModelError(f"{name} cannot be loaded: {first_line.rstrip('.')}.")
