"""A network that gives one logit for each of several classes, with the standardisation of its features inside.

The features z of a row are encoded, h = gelu(layernorm(A z + a)), and h (``hidden_dim``,) is cut into ``n_heads`` tokens,
each with a learned place added. Every class has a learned query for each head, which attends over the tokens; the values it
gathers, joined over the heads, give its logit by one product. Classes share all but their queries and that last product.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from strataprobe.errors import ProbeError

if TYPE_CHECKING:
    from torch import Generator, Tensor

HIDDEN_DIM, N_HEADS = 512, 8
# Rows at a time when logits are asked for.
_ROWS = 512


@dataclass(frozen=True, eq=False)
class Network:
    """Weights and form of a trained network of width D with K logits.

    ``config`` holds ``input_dim`` (D), ``n_outputs`` (K), ``hidden_dim``, ``n_heads``, and ``mirrored``: for two classes the
    one logit is that of the second, and its negative that of the first. ``tensors`` are float32, by the names of
    ``shapes_of``; ``mean`` and ``inverse_scale`` (D,) standardise, and ``inverse_scale`` is 0 for a constant feature.
    """

    config: dict[str, Any]
    tensors: dict[str, NDArray[np.float32]]

    @property
    def width(self) -> int:
        """D, the width of the activations."""
        return int(self.config["input_dim"])

    @property
    def n_classes(self) -> int:
        """Columns of ``logits``: K, or 2 where the one logit is mirrored."""
        return 2 if self.config["mirrored"] else int(self.config["n_outputs"])

    def mirrored(self) -> Network:
        """The same network, which has one logit, for both of two classes."""
        return replace(self, config={**self.config, "mirrored": True})

    def logits(self, X: Any) -> NDArray[np.float64]:
        """Logits (n, n_classes) float64 of raw activations X (n, D).

        Computed in float64, so that a text has the same logits whatever it is batched with.
        """
        import torch

        parts = {name: torch.from_numpy(np.asarray(value, dtype=np.float64)) for name, value in self.tensors.items()}
        rows = np.asarray(X)
        found = [np.zeros((0, int(self.config["n_outputs"])))]
        with torch.no_grad():
            for start in range(0, len(rows), _ROWS):
                raw = torch.from_numpy(np.asarray(rows[start : start + _ROWS], dtype=np.float64))
                z = (raw - parts["mean"]) * parts["inverse_scale"]
                found.append(forward(parts, z, int(self.config["n_heads"])).numpy())
        z1 = np.concatenate(found)
        return np.concatenate([-z1, z1], axis=1) if self.config["mirrored"] else z1

    def digest(self) -> str:
        """Hex sha256 of form and weights: two networks with the same one are the same."""
        found = hashlib.sha256(repr(sorted(self.config.items())).encode())
        for name in sorted(self.tensors):
            found.update(name.encode() + np.ascontiguousarray(self.tensors[name]).tobytes())
        return found.hexdigest()


def checked_network(config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], where: str) -> Network:
    """A network read from a file. Raises ProbeError when a tensor is missing, misshapen, or not finite."""
    try:
        numbers = {name: int(config[name]) for name in ("input_dim", "n_outputs", "hidden_dim", "n_heads")}
        whole = numbers | {"mirrored": bool(config["mirrored"])}
        if min(numbers.values()) < 1 or numbers["hidden_dim"] % numbers["n_heads"]:
            raise ValueError(f"{numbers['hidden_dim']} numbers in {numbers['n_heads']} heads")
        if whole["mirrored"] and numbers["n_outputs"] != 1:
            raise ValueError(f"{numbers['n_outputs']} mirrored logits")
        shapes = shapes_of(numbers["input_dim"], numbers["n_outputs"], numbers["hidden_dim"], numbers["n_heads"])
        found = {name: np.asarray(tensors[name], dtype=np.float32) for name in shapes}
    except (KeyError, TypeError, ValueError) as error:
        raise ProbeError(f"{where} holds an incomplete network ({error}): train or copy it again.") from error
    for name, shape in shapes.items():
        if found[name].shape != shape:
            raise ProbeError(f"{where} has {name!r} of shape {found[name].shape}, {shape} was expected: copy it again.")
        if not np.isfinite(found[name]).all():
            raise ProbeError(f"{where} holds values that are not finite: train or copy it again.")
    return Network(whole, found)


def shapes_of(width: int, n_outputs: int, hidden_dim: int = HIDDEN_DIM, n_heads: int = N_HEADS) -> dict[str, Any]:
    """Shape of every tensor, by name."""
    token = hidden_dim // n_heads
    return {
        "mean": (width,),
        "inverse_scale": (width,),
        "encoder.weight": (hidden_dim, width),
        "encoder.bias": (hidden_dim,),
        "norm.weight": (hidden_dim,),
        "norm.bias": (hidden_dim,),
        "place": (n_heads, token),
        "key.weight": (hidden_dim, token),
        "value.weight": (hidden_dim, token),
        "query": (n_outputs, hidden_dim),
        "out.weight": (n_outputs, hidden_dim),
        "out.bias": (n_outputs,),
    }


def new_weights(width: int, n_outputs: int, generator: Generator) -> dict[str, Tensor]:
    """Weights to start training from, float32: uniform within 1 / sqrt(fan in), drawn from ``generator`` alone."""
    import torch

    found = {}
    for name, shape in shapes_of(width, n_outputs).items():
        if name in ("mean", "inverse_scale"):
            continue
        if name == "norm.weight":
            found[name] = torch.ones(shape)
        elif len(shape) == 1:
            found[name] = torch.zeros(shape)
        else:
            bound = shape[1] ** -0.5
            found[name] = (2 * torch.rand(shape, generator=generator) - 1) * bound
    return found


def forward(weights: Mapping[str, Tensor], z: Tensor, n_heads: int = N_HEADS, keep: Tensor | None = None) -> Tensor:
    """Logits (n, K) of standardised rows z (n, D); ``keep`` (n, hidden) multiplies the encoded rows (dropout)."""
    from torch.nn.functional import gelu, layer_norm

    h = z @ weights["encoder.weight"].T + weights["encoder.bias"]
    h = gelu(layer_norm(h, h.shape[1:], weights["norm.weight"], weights["norm.bias"]))
    if keep is not None:
        h = h * keep
    n, hidden = h.shape
    size = hidden // n_heads
    tokens = h.view(n, n_heads, size) + weights["place"]
    keys, values = (
        (tokens @ weights[f"{name}.weight"].T).view(-1, n_heads, size).transpose(0, 1) for name in ("key", "value")
    )  # head, row and token, size
    queries, outs = (weights[name].view(-1, n_heads, size).permute(1, 2, 0) for name in ("query", "out.weight"))
    attention = ((keys @ queries) * size**-0.5).view(n_heads, n, n_heads, -1).softmax(dim=2)  # head, row, token, class
    # each value times the class's own weights before the sum over tokens: no (row, class, hidden) array is needed
    return (attention * (values @ outs).view(n_heads, n, n_heads, -1)).sum(dim=(0, 2)) + weights["out.bias"]
