"""distributions.py against scipy and closed forms:

python -m pytest tests/report/test_distributions.py                                # about 3 seconds"""

import doctest
import math

import numpy as np
import pytest

from report import distributions
from report.stats import NORMAL_975

NAN = float("nan")


def close(value, abs=1e-9):
    return pytest.approx(value, abs=abs, rel=0, nan_ok=True)


def within(value, rel):
    return pytest.approx(value, abs=0, rel=rel)


@pytest.fixture
def scipy_stats():
    return pytest.importorskip("scipy.stats")


def test_the_example_at_the_top():
    result = doctest.testmod(distributions)
    assert (result.failed, result.attempted) == (0, 1)


DFS = [0.5, 1, 2, 3, 4.7, 10, 39, 200, 5000, 100_000]


@pytest.mark.parametrize("df", DFS)
def test_student_t_agrees_with_scipy(scipy_stats, df):
    for t in [0.0, 1e-3, 0.01, 0.5, 1, 1.96, 3, 8, 25, 1e3]:
        for signed in (t, -t):
            want = scipy_stats.t.sf(signed, df)
            if want > 1e-250:
                assert distributions.student_t_sf(signed, df) == within(want, 1e-9), signed
    for p in [1e-6, 0.01, 0.025, 0.3, 0.5, 0.6, 0.975, 0.9995]:
        assert distributions.student_t_quantile(p, df) == pytest.approx(scipy_stats.t.ppf(p, df), rel=1e-9, abs=1e-12)


def test_student_t_in_closed_form():
    for t in (-3.0, 1e-8, 0.2, 40.0):  # at 1e-8 scipy 1.x is off by 1.6e-9
        assert distributions.student_t_sf(t, 1) == within(math.atan2(1, t) / math.pi, 1e-12)  # Cauchy
        assert distributions.student_t_sf(t, 2) == close(0.5 - t / (2 * math.sqrt(2 + t * t)), abs=1e-14)
    assert distributions.student_t_quantile(0.975, 1) == within(math.tan(0.475 * math.pi), 1e-12)


@pytest.mark.parametrize("df", DFS)
def test_chi2_agrees_with_scipy(scipy_stats, df):
    for x in [1e-8, 0.01, 0.5, 1, 3.84, 10, 50, 400, *(df * np.array([0.5, 0.9, 0.99, 1, 1.01, 1.1, 2]))]:
        want = scipy_stats.chi2.sf(x, df)
        if want > 1e-250:
            assert distributions.chi2_sf(x, df) == within(want, 1e-9), x


@pytest.mark.parametrize("df2", DFS)
@pytest.mark.parametrize("df1", [1, 2, 3, 7, 60, 1000])
def test_f_agrees_with_scipy(scipy_stats, df1, df2):
    for f in [1e-6, 0.1, 0.7, 1, 1.3, 3.69, 20, 500]:
        want = scipy_stats.f.sf(f, df1, df2)
        if want > 1e-250:
            assert distributions.f_sf(f, df1, df2) == within(want, 1e-9), f


def test_normal_agrees_with_scipy(scipy_stats):
    for x in [-30, -3, -0.1, 0, 1e-9, 0.5, 1.96, 5, 12, 35]:
        assert distributions.normal_sf(x) == within(scipy_stats.norm.sf(x), 1e-12)
    assert scipy_stats.norm.ppf(0.975) == within(NORMAL_975, 1e-15)


def test_ends_of_the_distributions():
    inf = math.inf
    assert [distributions.normal_sf(x) for x in (-inf, inf)] == [1, 0]
    assert [distributions.student_t_sf(t, 3) for t in (-inf, 0, inf)] == [1, 0.5, 0]
    assert [distributions.chi2_sf(x, 3) for x in (-1, 0, inf)] == [1, 1, 0]
    assert [distributions.f_sf(f, 3, 4) for f in (-1, 0, inf)] == [1, 1, 0]
    undefined = (distributions.student_t_sf(NAN, 3), distributions.chi2_sf(NAN, 3), distributions.f_sf(NAN, 3, 4))
    assert np.isnan(undefined).all()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: distributions.student_t_sf(1, 0), "above 0, got 0"),
        (lambda: distributions.chi2_sf(1, -1), "above 0, got -1"),
        (lambda: distributions.f_sf(1, 2, NAN), "above 0, got nan"),
        (lambda: distributions.student_t_quantile(1.0, 4), "got 1.0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
