"""Where int8 saturates: worked out by hand."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlt_prune.errors import QuantizationError
from tlt_prune.quantization import read_calibration_cache, write_calibration_cache
from tlt_prune.quantization.ranges import METHODS, Histogram, least_divergent


def histogram(*batches: object) -> Histogram:
    found = Histogram()
    for batch in batches:
        found.add(np.asarray(batch, np.float32))
    return found


def test_min_max_is_the_largest_magnitude_of_all_batches() -> None:
    found = histogram([0.5, -1.0], [3.0, 0.0], [-2.0]).range("min_max", 99.99)
    assert (found.low, found.high, found.maximum) == (-2.0, 3.0, 3.0)
    assert found.scale == 3.0 / 127


def test_percentile_leaves_out_what_is_rare() -> None:
    values = np.concatenate([np.linspace(-1, 1, 100_000), [1000.0]])
    whole = histogram(values[:50_000], values[50_000:])
    assert whole.range("percentile", 99.9).maximum == pytest.approx(1.0, abs=0.5)  # a bin of so wide a histogram is half a unit
    assert whole.range("percentile", 100.0).maximum == 1000.0
    assert histogram(values[:-1]).range("percentile", 50.1).maximum == pytest.approx(0.501, abs=0.001)


def test_a_histogram_does_not_depend_on_the_order_of_batches_by_more_than_a_bin() -> None:
    rng = np.random.default_rng(0)
    small, large = rng.normal(size=5000), 10 * rng.normal(size=5000)
    for method in ("percentile", "entropy"):
        there, back = (histogram(*x).range(method, 99.0).maximum for x in ((small, large), (large, small)))
        assert there == pytest.approx(back, rel=0.1)


def test_entropy_keeps_what_levels_hold_exactly() -> None:
    # Four bins alike, and nothing behind: four levels over them lose nothing.
    counts = np.zeros(64, np.int64)
    counts[:4] = 100
    assert least_divergent(counts, 4) == 4
    # One far count would cost the many half their levels: it is clipped.
    rng = np.random.default_rng(1)
    bell = np.abs(rng.normal(size=200_000))
    counts = np.bincount((bell * 64).astype(int), minlength=2048)[:2048]
    counts[2047] = 1
    assert 64 * 2 < least_divergent(counts, 128, 8) < 64 * 5


def test_zeros_have_no_say() -> None:
    values = np.random.default_rng(0).normal(size=4000)
    for method in METHODS:
        assert histogram(values).range(method, 99.0) == histogram(values, np.zeros(10**5)).range(method, 99.0)
    assert histogram(np.zeros(4)).range("entropy", 99.0).maximum == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(bad: float) -> None:
    with pytest.raises(QuantizationError, match="not finite"):
        histogram([1.0, bad])


@given(st.dictionaries(st.text("abc/:_ 01", min_size=1).filter(lambda x: x.strip() == x), st.floats(2.0**-99, 2.0**99, width=32)))
def test_the_calibration_cache_reads_back(tmp_path_factory: pytest.TempPathFactory, scales: dict[str, float]) -> None:
    path = tmp_path_factory.mktemp("cache") / "cal.bin"
    write_calibration_cache(path, scales)
    assert read_calibration_cache(path) == scales


def test_the_calibration_cache_is_tensorrts(tmp_path: pathlib.Path) -> None:
    write_calibration_cache(tmp_path / "cal.bin", {"input_1": 1 / 127, "conv1/Relu:0": 0.0078125}, "min_max")
    assert (tmp_path / "cal.bin").read_text() == "TRT-8601-MinMaxCalibration\ninput_1: 3c010204\nconv1/Relu:0: 3c000000\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no calibration cache|Cannot read"),
        ("hello\n", "no calibration cache"),
        ("TRT-8601-X\na: 3c01\n", "line 2: expected 'tensor: 8 hexadecimal digits'"),
    ],
)
def test_damaged_caches(tmp_path: pathlib.Path, text: str, message: str) -> None:
    (tmp_path / "cal.bin").write_text(text)
    with pytest.raises(QuantizationError, match=message):
        read_calibration_cache(tmp_path / "cal.bin")
    with pytest.raises(QuantizationError, match="Cannot read"):
        read_calibration_cache(tmp_path / "none.bin")
