"""Do two probe sets read the same directions? Cosines between their classes at each layer, beside what chance gives.

Chance is not 1 / sqrt(D): activations vary far more along some directions than others, and every probe, trained on real
labels or shuffled ones, follows that. So at each layer probes of shuffled labels are made from the training rows of both
sets, at the penalty of the real ones (logistic ones by a Newton step from an empty probe, which has a closed form), and
the mean square of the cosines between the two sides, s², is taken for chance. Concepts give the same when their classes
differ along random directions with the covariance of the activations. In 1 / s² dimensions without a preferred direction
cosines are as large; there cos² has the distribution Beta(1/2, (1/s² - 1) / 2), which gives the bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strataprobe.compare.controls import cells_of
from strataprobe.compare.document import Sources
from strataprobe.compare.layers import labelled, labelled_groups, penalty_of
from strataprobe.probes.families import get_family
from strataprobe.progress import Progress

N_DRAWS = 32
# Rows that the probes of shuffled labels are made from at most; the penalty is made to fit their number.
MAX_ROWS = 1_000
N_PAIRS_SHOWN = 20
_LEVEL = 0.05
# Of the mean diagonal: what float32 products can hold.
_SMALLEST_RIDGE = 1e-6

_MASS_MEAN, _JOINT = "mass-mean", "joint"

Float64 = NDArray[np.float64]
# "alpha" or "C" and its value, or a family that has none.
Penalty = tuple[str, float]


def shown_classes(names: Sequence[str]) -> list[int]:
    """The columns of a probe set that say something of their own: of two classes the second, else all."""
    return [1] if len(names) == 2 else list(range(len(names)))


def why_no_overlap(a: Sources, b: Sources) -> str | None:
    """The reason, a sentence, why directions of two sets cannot be compared; None where they can."""
    one, two = a.folder.info, b.folder.info
    if (one["model_name"], one["model_revision"]) != (two["model_name"], two["model_revision"]):
        return "They were trained on different models, whose directions have nothing in common."
    if not common_readout(a, b):
        return f"They have no readout in common ({', '.join(a.probes.readouts)}; {', '.join(b.probes.readouts)})."
    if not _common_layers(a, b):
        return "They have no layer in common."
    if a.folder.d_model != b.folder.d_model:
        return f"Their activations have different widths ({a.folder.d_model} and {b.folder.d_model})."
    if not all(_is_linear(s) for s in (a, b)):
        return "At least one of them is not linear, and so has no direction."
    if {_family_of(a), _family_of(b)} == {_JOINT}:
        return "They were trained jointly, which draws their directions to one another."
    return None


def common_readout(a: Sources, b: Sources) -> str | None:
    both = [name for name in a.probes.readouts if name in b.probes.readouts]
    return b.probes.primary if b.probes.primary in both else next(iter(both), None)


def _common_layers(a: Sources, b: Sources) -> list[int]:
    return sorted({k for k in a.probes.layers if k >= 1} & set(b.probes.layers))


def _is_linear(sources: Sources) -> bool:
    return all(getattr(probes.first, "network", None) is None for probes in sources.probes.sets.values())


def overlap_of(a: Sources, b: Sources, *, seed: int = 0) -> dict[str, Any]:
    """Cosines between every class of ``a`` and every class of ``b`` at each layer both have.

    ``readout``, ``layers``, ``classes_a``, ``classes_b``; ``cosine`` and ``bound``, both [layer][class of a][class of b],
    of raw directions; by layer ``mean`` and ``highest`` (of the size of the cosine), ``chance_mean`` (its mean for
    shuffled labels), ``bound_mean`` and ``n_above``; ``pairs``, each at the layer where chance explains it least, with
    ``p`` for all pairs and layers looked at; ``n_pairs``, ``n_pairs_above``. All bounds hold at once: by chance a
    cosine of any pair at any layer exceeds its own in 5 % of comparisons.
    """
    readout, layers = common_readout(a, b), _common_layers(a, b)
    assert readout is not None
    columns = [shown_classes(s.probes.class_names) for s in (a, b)]
    names = [[s.probes.class_names[c] for c in wanted] for s, wanted in zip((a, b), columns, strict=True)]
    cosines, chance = [], []
    with Progress("comparing directions", len(layers), "layers") as progress:
        for layer in layers:
            one, two = (_unit(s.probes.sets[readout, layer].weight[c]) for s, c in zip((a, b), columns, strict=True))
            cosines.append(one @ two.T)
            chance.append(_chance_rms((a, b), readout, layer, columns, seed))
            progress.advance()
    stacked, rms = np.stack(cosines), np.stack(chance)
    size, bounds = np.abs(stacked), cosine_bound(rms, stacked.size)
    chances = np.minimum(cosine_chance(size, rms) * stacked.size, 1.0)
    above = chances < _LEVEL
    return {
        "readout": readout,
        "layers": layers,
        "classes_a": names[0],
        "classes_b": names[1],
        "cosine": np.round(stacked, 5).tolist(),
        "bound": np.round(bounds, 5).tolist(),
        "mean": size.mean(axis=(1, 2)).tolist(),
        "highest": size.max(axis=(1, 2)).tolist(),
        "chance_mean": mean_size(rms).mean(axis=(1, 2)).tolist(),
        "bound_mean": bounds.mean(axis=(1, 2)).tolist(),
        "n_above": above.sum(axis=(1, 2)).tolist(),
        "pairs": _pairs(stacked, bounds, chances, names, layers),
        "n_pairs": size[0].size,
        "n_pairs_above": int(above.any(axis=0).sum()),
    }


def _pairs(
    cosines: Float64, bounds: Float64, chances: Float64, names: Sequence[Sequence[str]], layers: Sequence[int]
) -> list[dict[str, Any]]:
    """Each pair of classes at the layer where chance explains it least, those it explains least first."""
    size = np.abs(cosines)
    order = np.lexsort(tuple(v.ravel() for v in (-size, chances)))
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for place in order:
        k, i, j = (int(v) for v in np.unravel_index(place, cosines.shape))
        if len(found) == N_PAIRS_SHOWN:
            break
        if (i, j) not in found:
            found[i, j] = {
                "a": names[0][i],
                "b": names[1][j],
                "layer": layers[k],
                "cosine": float(cosines[k, i, j]),
                "bound": float(bounds[k, i, j]),
                "p": float(chances[k, i, j]),
                "above": bool(chances[k, i, j] < _LEVEL),
            }
    return list(found.values())


def cosine_chance(size: Float64, rms: Any) -> Float64:
    """The chance that an unrelated pair has a cosine of this ``size`` or more, for one pair at one layer."""
    from scipy.stats import beta

    return np.asarray(beta.sf(size**2, 0.5, _rest(rms) / 2), dtype=np.float64)


def cosine_bound(rms: Any, n_tests: int) -> Float64:
    """The size of cosine that the largest of ``n_tests`` unrelated pairs exceeds in 5 % of cases; ``rms`` is chance's."""
    from scipy.stats import beta

    return np.sqrt(np.asarray(beta.isf(_LEVEL / n_tests, 0.5, _rest(rms) / 2), dtype=np.float64))


def mean_size(rms: Any) -> Float64:
    """Mean size of the cosines of unrelated directions whose root mean square is ``rms``."""
    from scipy.special import beta

    half = _rest(rms) / 2
    return np.asarray(beta(1.0, half) / beta(0.5, half), dtype=np.float64)


def _rest(rms: Any) -> Float64:
    """1 / rms² - 1, kept between one straight line and what float32 directions can tell from a right angle."""
    return np.asarray(np.clip(1.0 / np.maximum(rms, 1e-6) ** 2 - 1.0, 1e-3, 1e10), dtype=np.float64)


def _chance_rms(
    both: tuple[Sources, Sources], readout: str, layer: int, columns: Sequence[Sequence[int]], seed: int
) -> Float64:
    """Root mean square cosine of shuffled probes, (classes of a, classes of b): it depends on the penalties of both."""
    drawn, places = [], []
    for i, (sources, wanted) in enumerate(zip(both, columns, strict=True)):
        penalties = [_penalty(sources, readout, layer, c) for c in wanted]
        distinct = sorted(set(penalties))
        places.append([distinct.index(p) for p in penalties])
        drawn.append([_unit(w) for w in shuffled_directions(sources, readout, layer, distinct, seed=seed + i)])
    rms = np.array([[np.sqrt(np.mean((one @ two.T) ** 2)) for two in drawn[1]] for one in drawn[0]])
    return np.asarray(rms[np.ix_(*places)], dtype=np.float64)


def _penalty(sources: Sources, readout: str, layer: int, column: int) -> Penalty:
    """How one class's probe was held back: its alpha or C; the C of the layer where neither is recorded."""
    if _family_of(sources).startswith(_MASS_MEAN):
        return _MASS_MEAN, 0.0
    extra = sources.probes.sets[readout, layer][sources.probes.class_names[column]].extra
    for name in ("alpha", "C"):
        if isinstance(extra.get(name), int | float) and extra[name] > 0:
            return name, float(extra[name])
    return "C", penalty_of(sources.probes, readout, layer)


def _family_of(sources: Sources) -> str:
    return str(sources.probes.manifest.config.get("probe", ""))


def shuffled_directions(
    sources: Sources, readout: str, layer: int, penalties: Sequence[Penalty], *, seed: int = 0
) -> list[Float64]:
    """For each penalty, raw directions (``N_DRAWS``, D), of any length, that training on shuffled labels gives at one layer.

    Rows of one group and class keep a label in common, as in the controls.
    """
    rows = sources.folder.read(layer, "train", readout)
    (x, labels), groups = labelled(rows), labelled_groups(rows)
    rng = np.random.default_rng([seed, 7])
    kept = np.sort(rng.permutation(len(labels))[:MAX_ROWS])
    share = len(kept) / len(labels)
    x, labels, groups = x[kept], labels[kept], [groups[i] for i in kept]
    _, first, cells = np.unique(cells_of(labels, groups), return_index=True, return_inverse=True)
    classes, own = shown_classes(sources.probes.class_names), labels[first]
    drawn = [rng.permutation(own)[cells] == classes[i % len(classes)] for i in range(N_DRAWS)]
    target = np.stack(drawn, axis=1).astype(np.float64)
    if penalties[0][0] == _MASS_MEAN:
        options = sources.probes.manifest.config.get("options")
        fit = get_family(_family_of(sources), options).refit(x, target, np.zeros((1, N_DRAWS)))
        return [fit.weight.astype(np.float64)]
    target -= target.mean(axis=0)
    weight = max(float((target**2).mean()), 1e-6)
    centred = x - x.mean(axis=0, dtype=np.float64).astype(np.float32)
    spread = centred.std(axis=0, dtype=np.float64)
    inverse = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
    z = (centred * inverse).astype(np.float32)
    ridges = [share * (value if name == "alpha" else 1 / (value * weight)) for name, value in penalties]
    return [(w * inverse[:, None]).T for w in ridge_weights(z, target, ridges)]


def ridge_weights(z: NDArray[np.float32], target: Float64, ridges: Sequence[float]) -> list[Float64]:
    """For each ridge (z'z + ridge)⁻¹ z' target, (D, K); ``z`` (N, D), ``target`` (N, K). The smaller product is solved."""
    from scipy.linalg import solve

    n, d = z.shape
    small = (z @ z.T if n <= d else z.T @ z).astype(np.float64)
    side = target if n <= d else z.T @ target
    diagonal, floor = np.diag_indices_from(small), _SMALLEST_RIDGE * max(float(np.trace(small)) / len(small), 1e-12)
    found = []
    for ridge in ridges:
        shifted = small.copy()
        shifted[diagonal] += max(ridge, floor)
        inner = solve(shifted, side, assume_a="pos", overwrite_a=True)
        found.append(z.T @ inner if n <= d else inner)
    return found


def _unit(rows: Any) -> Float64:
    """Rows (K, D) as float64 of length 1; a row of zeros stays."""
    array = np.asarray(rows, dtype=np.float64)
    length = np.linalg.norm(array, axis=1, keepdims=True)
    return np.divide(array, length, out=np.zeros_like(array), where=length > 0)
