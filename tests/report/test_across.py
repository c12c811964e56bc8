"""report/across.py: ranks over experiments and the paper's claims, worked by hand."""

import math

import numpy as np
import pytest
from factory import all_right, right_scores, toy, write_folds, write_four_experiments, write_run

from report.across import cliques
from report.analysis import analyse


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_the_paper_s_claim_of_lp_ft_says_where_it_rests_on_linear_probing(tmp_path):
    labels = np.tile([0, 1], 30)
    for data, best in (("a", "lp"), ("b", "ft")):
        ft, lpft = (right_scores(labels, np.arange(60) < right) for right in (30, 40))
        write_run(tmp_path, "FT", ft, labels, data=data, stages=["all"] * 2)
        write_run(tmp_path, "LP-FT", lpft, labels, data=data, stages=["lp", "ft"], best_stage=best)
    found = analyse(tmp_path)
    assert found.claims[0].here.startswith("better in 2 of 2 cases (100%)")
    scored = "in 1 of them LP-FT is scored, in some runs or all, by a checkpoint of its linear part"
    assert scored in found.claims[0].here
    assert "a/net: LP-FT (1 of 1 run scored in stage lp)." in found.across.notes


def test_the_papers_two_claims_are_counted_on_the_users_runs(tmp_path):
    write_four_experiments(tmp_path)
    found = analyse(tmp_path)
    first, second = found.claims
    assert first.here.startswith("better in 3 of 4 cases (75%)")
    assert [round(row.gain, 6) for row in first.rows] == [0.1, 0.05, 0.3, -0.05]
    assert second.here.startswith("at most by 0.300 [") and "50.0% of FT's value, on a/wide" in second.here


def test_ranks_over_blocks_are_those_worked_by_hand(tmp_path):
    write_four_experiments(tmp_path)
    across = analyse(tmp_path).across
    assert across.ranks == [[2, 1, 3], [3, 2, 1], [2, 1, 3], [1, 2, 3]]
    assert across.average_ranks == {"FT": 2.0, "LP-FT": 1.5, "Auto-RGN": 2.5}
    assert across.friedman.chi2 == pytest.approx(12 * 4 / (3 * 4) * (4 + 2.25 + 6.25 - 3 * 16 / 4), abs=1e-12)
    assert across.cd == pytest.approx(2.344 * math.sqrt(3 * 4 / (6 * 4)), abs=1e-9)
    assert across.cliques == [["LP-FT", "FT", "Auto-RGN"]]
    assert {row.strategy: (row.better, row.of) for row in across.beats_ft} == {"LP-FT": (3, 4), "Auto-RGN": (1, 4)}
    assert all(math.isnan(p.p) and "pairs" in p.note for p in across.pairs)  # four are fewer than six


def test_ranks_go_down_where_a_lower_value_is_better(tmp_path):
    """Brier scores on two datasets, accuracy on a third: with confidence 0.8 a right answer costs 0.2^2, a
    wrong one 0.8^2. LP is first each time, FT last."""
    labels = np.tile([0, 1], 50)
    for data, metric in (("one", "brier"), ("two", "brier"), ("three", "accuracy")):
        for strategy, n in (("FT", 50), ("LP", 90), ("L2-SP", 70)):
            scores = right_scores(labels, np.arange(100) < n)
            write_run(tmp_path, strategy, scores, labels, data=data, metric=metric)
    across = analyse(tmp_path).across
    assert across.strategies == ["FT", "LP", "L2-SP"] and across.ranks == [[3, 1, 2]] * 3
    brier = [(n * 0.04 + (100 - n) * 0.64) / 100 for n in (50, 90, 70)]
    found = dict(zip(across.experiments, across.table, strict=True))
    assert found["one/net"] == pytest.approx(brier) and found["two/net"] == pytest.approx(brier)
    assert found["three/net"] == pytest.approx([0.5, 0.9, 0.7])
    assert across.average_ranks == {"FT": 3.0, "LP": 1.0, "L2-SP": 2.0}


@pytest.mark.parametrize(
    ("averages", "by_hand"),
    [
        ((1.0, 2.0, 3.1), ["ab", "bc"]),  # a and c are 2.1 apart
        ((1.0, 2.6, 4.2), []),
        ((1.0, 2.4, 2.5, 4.0), ["abc", "cd"]),  # b to d is 1.6
        ((3.0, 1.0, 1.2, 4.4), ["bc", "ad"]),
        ((2.0, 2.0, 2.0), ["abc"]),
    ],
)
def test_cliques_lie_within_the_critical_difference(averages, by_hand):
    """A difference of 1.5, as in figure 1 of Demsar 2006: the longest runs of neighbours, none within
    another."""
    assert cliques(dict(zip("abcd", averages, strict=False)), 1.5) == [list(clique) for clique in by_hand]


def test_what_is_better_and_what_is_separably_so_are_counted_apart(tmp_path):
    """LP-FT is right 30 times more than FT on one dataset of 100 patients, once more on the second, once less
    on the third: better on two, separable on one."""
    labels = np.tile([0, 1], 50)
    for data, n in (("one", 90), ("two", 61), ("three", 59)):
        for strategy, count in (("FT", 60), ("LP-FT", n)):
            write_run(tmp_path, strategy, right_scores(labels, np.arange(100) < count), labels, data=data)
    found = analyse(tmp_path)
    (row,) = found.across.beats_ft
    assert (row.better, row.separable, row.of) == (2, 1, 3)
    assert row.largest == pytest.approx(0.3) and row.largest_at.startswith("one/net")
    rates = "; at default learning rates, which --tune did not choose"
    assert found.claims[0].here == "better in 2 of 3 cases (67%), separably in 1" + rates


def test_one_block_has_no_ranks_and_says_why(tmp_path, rng):
    labels = toy(rng, 30)
    write_run(tmp_path, "FT", all_right(labels), labels)
    found = analyse(tmp_path)
    assert found.across is None and "two or more" in found.across_note
    assert "cannot be said" in found.claims[0].here


def test_ranks_leave_out_a_strategy_that_has_other_runs_somewhere(tmp_path):
    for data in ("one", "two"):
        labels = np.tile([0, 1], 50)
        for strategy, folds in (("FT", (0, 1)), ("LP-FT", (0, 1)), ("LP", (0,))):
            for fold in folds:
                images = [f"f{fold}-{k}" for k in range(100)]
                right = np.arange(100) < (99 if strategy == "LP" else 70)
                write_run(tmp_path, strategy, right_scores(labels, right), labels, data=data, fold=fold, images=images)
    across = analyse(tmp_path).across
    assert across.strategies == ["FT", "LP-FT"] and any("LP" in n and "left out" in n for n in across.notes)


def test_a_negative_metric_keeps_its_sign_over_blocks(tmp_path):
    labels = np.tile([0, 1], 50)
    for data in ("one", "two"):
        for strategy, n in (("FT", 40), ("LP", 60)):  # kappa -0.2 and 0.2
            write_run(tmp_path, strategy, right_scores(labels, np.arange(100) < n), labels, data=data, metric="kappa")
    across = analyse(tmp_path).across
    assert across.table == [[pytest.approx(-0.2), pytest.approx(0.2)]] * 2 and across.ranks == [[2, 1]] * 2


def test_the_gain_in_a_metric_whose_low_values_are_good_keeps_its_interval(tmp_path, rng):
    labels = toy(rng, 100)
    right = rng.random(100) < 0.8
    other = right.copy()
    other[np.flatnonzero(~right)[0]] = True  # one more right: a small gain, not separable
    write_run(tmp_path, "FT", right_scores(labels, right), labels, metric="brier")
    write_run(tmp_path, "Auto-RGN", right_scores(labels, other), labels, metric="brier")
    row = analyse(tmp_path).claims[1].rows[0]
    assert row.gain == pytest.approx(0.6 / 100) and row.difference == -row.gain  # 0.64 - 0.04 of one in 100
    assert (row.gain_low, row.gain_high) == (-row.high, -row.low) and row.gain_low <= row.gain


def test_a_share_of_fts_value_is_of_the_runs_that_both_have(tmp_path):
    write_folds(tmp_path, {"FT": {(0, 0): 0.5, (0, 1): 0.9}, "Auto-RGN": {(0, 0): 0.6}})
    row = analyse(tmp_path).claims[1].rows[0]
    assert row.relative == pytest.approx(0.1 / 0.5)
