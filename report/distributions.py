"""Tails of the distributions that report/stats.py tests with, to nine digits and more.

>>> round(student_t_sf(2.776445, df=4), 6)
0.025

Standard library only; copy this file alone."""

import functools
import math

NAN = float("nan")


def normal_sf(x: float) -> float:
    """P(Z > x) of the standard normal distribution. x: float, inf allowed. Returns a float in [0, 1]."""
    return 0.5 * math.erfc(x / math.sqrt(2))


def student_t_sf(t: float, df: float) -> float:
    """P(T > t) of Student's t (Abramowitz and Stegun 26.7.1). t: float, inf allowed. df: degrees of freedom
    > 0, up to 1e5 to nine digits. Returns a float in [0, 1]. ValueError on a df not above 0."""
    _check_df(df)
    if not math.isfinite(t):
        return NAN if math.isnan(t) else float(t < 0)
    tail = 0.5 * _incomplete_beta(df / 2, 0.5, df / (df + t * t), t * t / (df + t * t))
    return tail if t >= 0 else 1 - tail


@functools.lru_cache(maxsize=256)
def student_t_quantile(p: float, df: float) -> float:
    """The t with P(T <= t) = p, by Newton's steps, each kept within what is known to
    hold it. p: in (0, 1). df: as in student_t_sf. ValueError on others."""
    if not 0 < p < 1:
        raise ValueError(f"p must be in (0, 1), got {p}")
    tail, low, high = min(p, 1 - p), 0.0, 1.0
    while student_t_sf(high, df) > tail:
        low, high = high, 2 * high
    if p == 0.5:
        return 0.0
    log_peak = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - math.log(df * math.pi) / 2
    x, last = (low + high) / 2, math.inf
    while low < x < high and abs(x - last) > 1e-15 * x:
        beyond = student_t_sf(x, df) - tail
        low, high = (x, high) if beyond > 0 else (low, x)
        density = math.exp(log_peak - (df + 1) / 2 * math.log1p(x * x / df))
        last, x = x, x + beyond / density
        if not low < x < high:
            x = (low + high) / 2
    return -x if p < 0.5 else x


def chi2_sf(x: float, df: float) -> float:
    """P(X > x) of the chi-square distribution (Abramowitz and Stegun 26.4.19). x: float, inf allowed, 1 below
    0. df: degrees of freedom > 0. Returns a float in [0, 1]. ValueError on a df not above 0."""
    _check_df(df)
    if not 0 < x < math.inf:
        return NAN if math.isnan(x) else float(x <= 0)
    return _incomplete_gamma_q(df / 2, x / 2)


def f_sf(f: float, df1: float, df2: float) -> float:
    """P(F > f) of the F distribution (Abramowitz and Stegun 26.6.2). f: float, inf allowed, 1 below 0. df1,
    df2: degrees of freedom > 0 of numerator and denominator. Returns a float in [0, 1]. ValueError on a df
    not above 0."""
    _check_df(df1)
    _check_df(df2)
    if not 0 < f < math.inf:
        return NAN if math.isnan(f) else float(f <= 0)
    return _incomplete_beta(df2 / 2, df1 / 2, df2 / (df2 + df1 * f), df1 * f / (df2 + df1 * f))


def _incomplete_beta(a, b, x, y):
    """Regularised I_x(a, b) with y = 1 - x given, for it would lose its digits (Numerical Recipes 6.4)."""
    if x == 0 or y == 0:
        return 0.0 if x == 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # the fraction is quick below, and the result is no small number above
        return 1 - _incomplete_beta(b, a, y, x)
    log_x, log_y = math.log(x) if x < 0.5 else math.log1p(-y), math.log(y) if y < 0.5 else math.log1p(-x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * log_x + b * log_y

    def term(i):  # Abramowitz and Stegun 26.5.8
        m = i // 2
        if i % 2:
            return -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        return m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))

    return math.exp(log_front) / a / _lentz(1.0, term, lambda i: 1.0)


def _incomplete_gamma_q(a, x):
    """Regularised upper Q(a, x): 1 less the series of P below a + 1, a continued fraction above, so that
    neither is a small difference (Numerical Recipes 6.2)."""
    log_front = a * math.log(x) - x - math.lgamma(a)
    if x >= a + 1:
        return math.exp(log_front) / _lentz(x + 1 - a, lambda i: i * (a - i), lambda i: x + 2 * i + 1 - a)
    term = total = 1 / a
    i = 0
    while term > 1e-17 * total:
        i += 1
        term *= x / (a + i)
        total += term
    return 1 - math.exp(log_front) * total


def _lentz(first, numerator, denominator, steps=100_000):
    """first + numerator(1) / (denominator(1) + numerator(2) / (denominator(2) + ...)) by the modified Lentz
    method (Numerical Recipes 5.2)."""
    tiny = 1e-300
    value = c = first or tiny
    d = 0.0
    for i in range(1, steps):
        d = 1 / ((denominator(i) + numerator(i) * d) or tiny)
        c = (denominator(i) + numerator(i) / c) or tiny
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            return value
    raise ArithmeticError(f"a continued fraction did not converge in {steps} steps")


def _check_df(df):
    if not 0 < df < math.inf:
        raise ValueError(f"degrees of freedom must be above 0, got {df}")
