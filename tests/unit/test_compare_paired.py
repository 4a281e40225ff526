from __future__ import annotations

import numpy as np
import pytest

from strataprobe.compare.layers import TestRows
from strataprobe.compare.paired import against


def planted(n: int, first: float, second: float, seed: int, shared: float = 0.8) -> tuple[np.ndarray, ...]:
    """Logits (n, 2) of two probes that share noise, each with its own shift between the classes, and the rows."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    noise = np.sqrt(shared) * rng.standard_normal(n)
    logits = [noise + np.sqrt(1 - shared) * rng.standard_normal(n) + s * labels for s in (first, second)]
    rows = TestRows(labels, [f"group-{i // 4}" for i in range(n)], [])
    return *(np.stack([-x, x], axis=1) for x in logits), rows


def test_the_p_is_under_one_in_twenty_exactly_where_the_interval_leaves_out_no_difference() -> None:
    for second in (1.0, 1.1, 1.2, 1.4):
        a, b, rows = planted(400, 1.0, second, 3)
        found = against(a, b, rows)
        assert (found["p"] < 0.05) == (found["low"] > 0 or found["high"] < 0)
        assert found["low"] < found["value"] < found["high"]


def test_a_better_probe_is_found_from_either_side_and_an_equal_one_is_not() -> None:
    a, b, rows = planted(800, 2.0, 1.0, 0)
    found, turned = against(a, b, rows), against(b, a, rows)
    assert found["value"] > 0 > turned["value"]
    assert found["p"] == pytest.approx(turned["p"])
    assert found["p"] < 1e-4
    assert (against(a, a, rows)["value"], against(a, a, rows)["p"]) == (0.0, 1.0)


def test_of_two_equal_probes_one_is_called_better_in_about_one_of_twenty_data_sets() -> None:
    values = [against(*planted(200, 1.2, 1.2, seed))["p"] for seed in range(16)]
    assert np.mean(np.array(values) < 0.05) <= 0.2
    assert 0.2 < np.median(values) < 0.8


def test_without_a_class_there_is_no_difference() -> None:
    a, b, rows = planted(20, 1.0, 1.0, 0)
    assert against(a, b, TestRows(np.zeros(20, dtype=np.int64), rows.groups, []))["p"] is None
