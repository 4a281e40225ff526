"""Load a model and its tokenizer, find its blocks, and say in one sentence what goes wrong there.

All that is specific to a model family lives here. The rest of the code sees a ``LoadedModel``: a body that runs token
ids through a list of blocks, the final norm, and the output head (used for the class words' rows only).
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from strataprobe.devices import DTYPES, choose_device, choose_dtype
from strataprobe.errors import ModelError
from strataprobe.manifest import ModelIdentity
from strataprobe.mixed import is_mixed, load_mixed
from strataprobe.modelerrors import explained
from strataprobe.modelfiles import (
    DEMO,
    demo_folder,
    folder_revision,
    is_missing,
    parameters_revision,
    refuse_missing_weights,
)
from strataprobe.progress import note

_FINAL_NORMS = {
    "decoder": ("norm", "ln_f", "final_layer_norm", "final_layernorm"),
    "encoder": ("final_norm",),
}
_NOT_TEXT = ("vision", "visual", "audio", "image")
_NO_LIMIT = 1_000_000


@dataclass(eq=False)
class LoadedModel:
    """A model ready to be read.

    ``body`` maps token ids (B, T) through ``blocks``; layer k is the output of ``blocks[k-1]``. ``causal`` says that a
    position never sees a later one, so padding on the right needs no mask. ``model`` is the whole module (its training
    mode is restored after use).
    """

    identity: ModelIdentity
    model: nn.Module
    body: nn.Module
    blocks: nn.ModuleList
    tokenizer: Any
    kind: Literal["decoder", "encoder"]
    causal: bool
    d_model: int
    max_positions: int
    final_norm: nn.Module | None
    head: nn.Module | None
    logit_softcap: float | None
    family: str

    @property
    def n_layers(self) -> int:
        """L, the number of blocks."""
        return len(self.blocks)

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return next(self.body.parameters()).device

    @property
    def dtype(self) -> str:
        """What the model runs in: "mixed", or the parameters' dtype, for example "float32"."""
        return "mixed" if is_mixed(self.body) else str(self.stream_dtype).removeprefix("torch.")

    @property
    def stream_dtype(self) -> torch.dtype:
        """The dtype of the residual stream and of what the norms take."""
        return torch.float32 if is_mixed(self.body) else next(self.body.parameters()).dtype

    @property
    def default_readouts(self) -> tuple[str, ...]:
        """What ``--readout auto`` means for this kind of model, primary first."""
        return ("last", "mean") if self.kind == "decoder" else ("mean",)


_loaded: weakref.WeakValueDictionary[tuple[str, str, str, str], LoadedModel] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def load_model(model: Any, tokenizer: Any = None, *, dtype: str = "auto", device: str = "auto") -> LoadedModel:
    """Load a model by id, folder or "demo", or wrap one that is loaded already (with its tokenizer).

    ``dtype`` is auto, float32, bfloat16 or mixed; a model that is loaded already keeps its own. The same id, dtype and
    device is loaded once per process and shared. Raises ModelError when the model cannot be reached, lacks weights, or is
    of a kind whose layers cannot be read; OptionError for a bad dtype or device.
    """
    if isinstance(model, LoadedModel):
        return model
    if not isinstance(model, (str, Path)):
        return wrap_model(model, tokenizer)
    place = choose_device(device)
    chosen = choose_dtype(dtype, place)
    source, name = resolve(model)
    with _lock:
        revision = folder_revision(Path(source)) if Path(source).is_dir() else ""
        key = (source, revision, chosen, str(place))
        found = _loaded.get(key)
        if found is None:
            found = _load(source, name, revision, chosen, place)
            _loaded[key] = found
        return found


def resolve(model: str | Path) -> tuple[str, str]:
    """(what to load, name to record) for a model id, folder or "demo". The name holds no path.

    Raises ModelError when a path-like model is not a folder with a config.json.
    """
    text = str(model)
    if text == DEMO:
        return str(demo_folder()), DEMO
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{path} has no config.json: give the folder of a transformers model.")
        return str(path), path.resolve().name
    if text.startswith((".", "/", "~")) or text.count("/") > 1 or not text:
        raise ModelError(f"{text!r} is not a folder: give a model id, the folder of a model, or 'demo'.")
    return text, text


def _load(source: str, name: str, revision: str, dtype: str, device: torch.device) -> LoadedModel:
    from transformers import AutoConfig, AutoTokenizer

    local = Path(source).is_dir()
    with _hushed(local):
        try:
            config = AutoConfig.from_pretrained(source)
        except Exception as error:
            raise explained(name, error) from error
        kind = kind_of(config, name)
        auto_class = _auto_class(config, kind)
        try:
            tokenizer = AutoTokenizer.from_pretrained(source)
            if dtype == "mixed":
                model, report = load_mixed(auto_class, config, source)
            else:
                model, report = auto_class.from_pretrained(source, dtype=DTYPES[dtype], output_loading_info=True)
        except Exception as error:
            raise explained(name, error) from error
    revision = revision or str(getattr(config, "_commit_hash", None) or "unknown")
    try:
        model.to(device)
    except torch.OutOfMemoryError as error:
        half = "--dtype bfloat16 or mixed, or " if dtype == "float32" else ""
        raise ModelError(f"{name} does not fit into the memory of {device}: use {half}a smaller model.") from error
    loaded = _describe(ModelIdentity(name=name, revision=revision), model.eval(), tokenizer)
    refuse_missing_weights(name, model, loaded.body, report)
    if loaded.head is not None and is_missing(loaded.head, model, report):
        loaded.head = None  # random numbers: nothing may be asked of it
    return loaded


def wrap_model(model: nn.Module, tokenizer: Any) -> LoadedModel:
    """A ``LoadedModel`` around a transformers model that the caller has loaded. Its weights and mode are left alone."""
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise ModelError(f"model is {type(model).__name__}, not a transformers model, an id or a folder.")
    if tokenizer is None:
        raise ModelError("a loaded model needs its tokenizer beside it: pass tokenizer=...")
    config: Any = model.config
    path = str(getattr(config, "_name_or_path", "") or "")
    if path and Path(path).is_dir() and (Path(path) / "config.json").is_file():
        identity = ModelIdentity(name=Path(path).resolve().name, revision=folder_revision(Path(path)))
    elif getattr(config, "_commit_hash", None):
        identity = ModelIdentity(name=path, revision=str(config._commit_hash))
    else:
        identity = ModelIdentity(name=path or type(model).__name__, revision=parameters_revision(model))
    return _describe(identity, model, tokenizer)


@contextmanager
def _hushed(progress_too: bool) -> Iterator[None]:
    """Keep the library's own chatter off the terminal; download bars of a hub model stay."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if progress_too:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def kind_of(config: Any, name: str) -> Literal["decoder", "encoder"]:
    """Whether a configuration is that of a decoder or an encoder. Raises ModelError for an encoder-decoder model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{name} is an encoder-decoder model ({config.model_type}): use a decoder or an encoder.")
    architecture = (getattr(config, "architectures", None) or [""])[0]
    writes = architecture.endswith(("ForCausalLM", "ForConditionalGeneration"))
    if architecture.endswith("LMHeadModel"):  # BertLMHeadModel and its like see both ways unless told otherwise
        writes = bool(getattr(config, "is_decoder", False))
    return "encoder" if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not writes else "decoder"


def _auto_class(config: Any, kind: str) -> Any:
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    architecture = (getattr(config, "architectures", None) or [""])[0]
    if kind == "encoder" or (architecture.endswith("Model") and not architecture.endswith("LMHeadModel")):
        return AutoModel
    return (
        AutoModelForCausalLM if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else AutoModelForImageTextToText
    )


def _describe(identity: ModelIdentity, model: Any, tokenizer: Any) -> LoadedModel:
    config = model.config
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    block_name, blocks = find_blocks(model, int(text_config.num_hidden_layers), identity.name)
    body = _body_of(model, block_name)
    kind = kind_of(config, identity.name)
    limits = [getattr(text_config, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None)]
    max_positions = min([int(n) for n in limits if isinstance(n, int) and 0 < n < _NO_LIMIT], default=_NO_LIMIT)
    return LoadedModel(
        identity=identity,
        model=model,
        body=body,
        blocks=blocks,
        tokenizer=tokenizer,
        kind=kind,
        causal=kind == "decoder" and not getattr(text_config, "use_bidirectional_attention", False),
        d_model=int(text_config.hidden_size),
        max_positions=max_positions,
        final_norm=next((getattr(body, n) for n in _FINAL_NORMS[kind] if hasattr(body, n)), None),
        head=model.get_output_embeddings() if kind == "decoder" and hasattr(model, "get_output_embeddings") else None,
        logit_softcap=getattr(text_config, "final_logit_softcapping", None),
        family=str(text_config.model_type),
    )


def find_blocks(model: nn.Module, n_layers: int, name: str) -> tuple[str, nn.ModuleList]:
    """The list of blocks by its length, wherever the family keeps it; a vision or audio tower is never it."""
    found = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers and not any(word in path for word in _NOT_TEXT)
    ]
    if not found:
        raise ModelError(
            f"{name}: no list of {n_layers} blocks was found in {type(model).__name__}; its layers cannot be read."
        )
    return max(found, key=lambda pair: sum(p.numel() for p in pair[1].parameters()))


def _body_of(model: nn.Module, block_name: str) -> nn.Module:
    """The innermost library model that holds the blocks: what maps token ids to them, without the head."""
    from transformers import PreTrainedModel

    parts = block_name.split(".")[:-1]
    for end in range(len(parts), -1, -1):
        module = model.get_submodule(".".join(parts[:end]))
        if isinstance(module, PreTrainedModel):
            return module
    return model


def say_choices(loaded: LoadedModel, dtype: str, device: str) -> None:
    """Say which device and dtype were chosen automatically, and why."""
    if device == "auto":
        note(f"device: {loaded.device} (auto: {'a GPU was found' if loaded.device.type != 'cpu' else 'no GPU found'})")
    if dtype == "auto":
        why = {
            "bfloat16": "native on this GPU",
            "mixed": "bfloat16 is not native here: weights and products in float16, the rest in float32",
        }.get(loaded.dtype, "bfloat16 is not native here")
        note(f"dtype: {loaded.dtype} (auto: {why})")
