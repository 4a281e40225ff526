"""The mixed mode, for GPUs without bfloat16: weights and matrix products in float16, everything else in float32.

What enters and leaves a matrix product may pass 65,504, the largest float16 number, as the residual stream does. So each
row is multiplied by a power of two, which is exact, before it becomes float16, and the product is scaled back in float32.
"""

from __future__ import annotations

import copy
import math
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

# Exponents of two: of the largest sum that a product may reach (half of float16's limit), and of the scales that
# float32 can hold with their inverses.
_LARGEST_SUM = 15
_LARGEST_SCALE = 126
_CHUNK = 2**24


class _Product(nn.Module):
    """A linear layer with float16 weights that takes and gives float32."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    _room: int | None = None

    @property
    def _matrix(self) -> Tensor:
        """The weights (out, in)."""
        return self.weight

    @property
    def room(self) -> int:
        """Exponent below which a row's largest magnitude must stay, so that no sum of products leaves float16."""
        if self._room is None:
            parts = self._matrix.detach().split(max(1, _CHUNK // self._matrix.shape[1]))
            largest = max(float(part.abs().sum(dim=1, dtype=torch.float32).max()) for part in parts)
            self._room = _LARGEST_SUM - max(0, math.frexp(largest)[1])
        return self._room

    def forward(self, x: Tensor) -> Tensor:
        """Rows (..., in) to (..., out), float32."""
        x = x.to(torch.float32)
        largest = torch.linalg.vector_norm(x.detach(), torch.inf, dim=-1, keepdim=True)
        exponent = (largest.view(torch.int32) >> 23) - 126  # largest < 2**exponent
        shift = (self.room - exponent).clamp(-_LARGEST_SCALE, _LARGEST_SCALE)
        product = linear((x * _power_of_two(shift)).to(torch.float16), self._matrix)
        out = product * _power_of_two(-shift)
        return out if self.bias is None else out + self.bias


class _TransposedProduct(_Product):
    """The same where the weights are kept as (in, out)."""

    @property
    def _matrix(self) -> Tensor:
        return self.weight.T


class _Table(nn.Embedding):
    """An embedding table in float16 whose rows come out as float32."""

    def forward(self, input: Tensor) -> Tensor:
        """Token ids (...) to rows (..., D), float32."""
        return embedding(input, getattr(self, "table", self.weight), self.padding_idx).to(torch.float32)


class _OwnForward(nn.Embedding):
    """In front of an embedding class with a forward of its own, which may cast what it multiplies with to the dtype of
    its weight (Gemma's scale): it is shown a float32 weight, and its ``super().forward`` finds ``_Table``.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """What the class behind makes of float32 rows."""
        shown = copy.copy(self)
        float32 = nn.Parameter(torch.empty(0, dtype=torch.float32, device=self.weight.device), requires_grad=False)
        shown._parameters = {**self._parameters, "weight": float32, "table": self._parameters["weight"]}
        found: Tensor = super(_OwnForward, shown).forward(*args, **kwargs)
        return found


@cache
def _mixed_class(kind: Any) -> Any:
    """What a module of this class becomes; None where it stays as it is, in float32."""
    from transformers.pytorch_utils import Conv1D

    bases: tuple[Any, ...]
    if kind is nn.Linear:
        bases = (_Product, kind)
    elif kind is Conv1D:
        bases = (_TransposedProduct, kind)
    elif kind is nn.Embedding:
        return _Table
    elif issubclass(kind, nn.Embedding):
        bases = (_OwnForward, kind, _Table)
    else:
        return None
    return type(f"Mixed{kind.__name__}", bases, {})


def load_mixed(auto_class: Any, config: Any, source: str) -> tuple[Any, Any]:
    """A model in the mixed mode from a folder or the hub, and the library's report on its loading.

    Its weights are made float16 before they hold numbers, and the library casts each to the dtype that it finds: neither
    a float32 copy of the whole model nor a rounded norm, frequency or scale ever exists.
    """
    with torch.device("meta"):
        kind = type(auto_class.from_config(config))

    def build(self: Any, *args: Any, **kwargs: Any) -> None:
        kind.__init__(self, *args, **kwargs)
        _convert(self)

    # the same name: the library looks some things up by it
    loading: Any = type(kind.__name__, (kind,), {"__init__": build, "__module__": kind.__module__})
    model, report = loading.from_pretrained(source, dtype=torch.float32, output_loading_info=True)
    model.__class__ = kind
    return model, report


def _convert(model: nn.Module) -> None:
    module: Any
    for module in model.modules():
        kind: Any = type(module)
        kind = _mixed_class(kind)
        if kind is not None:
            weight = module.weight
            module.__class__ = kind
            module.weight = nn.Parameter(weight.to(torch.float16), requires_grad=weight.requires_grad)


def is_mixed(model: nn.Module) -> bool:
    """Whether a model was loaded in the mixed mode."""
    return any(isinstance(module, _Product) for module in model.modules())


def _power_of_two(exponent: Tensor) -> Tensor:
    """2 ** exponent as float32, exact on every device, for int32 exponents from -126 to 126."""
    return ((exponent + 127) << 23).view(torch.float32)
