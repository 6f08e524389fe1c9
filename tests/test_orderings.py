"""Rows compared over users and seeds, and verdicts, on results whose answer is known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from musicrec_kit import orderings
from musicrec_kit.evaluation import compare
from musicrec_kit.evaluation.compare import Comparison
from musicrec_kit.orderings import FAILS, HOLDS, NOT_RUN, UNTOLD
from musicrec_kit.params import Refused
from tests.paper_results import hits, results_of

RANKS = {
    "best": [hits(0.50), hits(0.52)],
    "same": [hits(0.50), hits(0.52)],
    "worse": [hits(0.30), hits(0.32)],
    "codes=8": [hits(0.1)],
    "codes=16": [hits(0.2)],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, dict[tuple[str, str], orderings.Ranks]]:
    folder = tmp_path_factory.mktemp("runs")
    results = results_of(folder, RANKS)
    return results, orderings.ranks_of(results, folder)


def test_means_and_intervals_are_over_seeds_of_the_list_of_record(made: tuple) -> None:
    table = orderings.over_seeds(made[0])
    row = table[(table["row"] == "best") & (table["metric"] == "hr@10")].iloc[0]
    assert row["mean"] == pytest.approx(0.51) and row["seeds"] == 2 and row["encoders"] == "text: tiny"
    low, high = stats.t.interval(0.95, 1, loc=0.51, scale=stats.sem([0.50, 0.52]))
    assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))
    alone = table[(table["row"] == "codes=8") & (table["metric"] == "hr@10")].iloc[0]
    assert alone["mean"] == pytest.approx(0.1) and np.isnan(alone["low"]) and alone["seeds"] == 1


def test_ranks_are_those_of_the_test_split_in_the_order_of_users(made: tuple) -> None:
    ranks = made[1]["toy", "best"]
    assert list(made[1]) == [("toy", row) for row in RANKS] and ranks.seeds == (0, 1)
    assert ranks.plain.tolist() == RANKS["best"]
    assert ranks.values("hr@10", [1]).tolist() == [[float(rank > 0) for rank in RANKS["best"][1]]]


def test_masked_metrics_read_the_masked_ranks(tmp_path: Path) -> None:
    results = results_of(tmp_path, {"a": [[11, 2, 0, 1]]})
    ranks = orderings.ranks_of(results, tmp_path)["toy", "a"]
    assert ranks.values("hr@10", [0]).tolist() == [[0, 1, 0, 1]]
    assert ranks.values("hr@10/no_history", [0]).tolist() == [[1, 1, 0, 1]]
    assert ranks.values("mrr@5/no_history", [0]).tolist() == [[0, 1, 0, 1]]


def test_rows_of_different_data_are_refused(tmp_path: Path) -> None:
    both = [results_of(tmp_path, {row: [hits(0.5)]}, fingerprint=row) for row in ("a", "b")]
    with pytest.raises(Refused, match="fingerprints differ"):
        orderings.ranks_of(pd.concat(both), tmp_path)


def test_rows_are_compared_with_the_spread_of_all_rows(made: tuple) -> None:
    ranks = made[1]
    result = orderings.compared(ranks, "toy", "best", "worse", "hr@10")
    a, b = (ranks["toy", row].values("hr@10", (0, 1)) for row in ("best", "worse"))
    means = np.array([a.mean(axis=1), b.mean(axis=1)])  # "same" is "best" once more
    assert result == compare.compare(a, b, compare.spread_of([means]))
    assert result.difference == pytest.approx(0.2) and (result.users, result.seeds) == (400, 2)


def test_only_seeds_that_both_have_are_compared(made: tuple) -> None:
    result = orderings.compared(made[1], "toy", "best", "codes=16", "hr@10")
    assert (result.mean_a, result.mean_b) == (pytest.approx(0.5), pytest.approx(0.2))
    assert result.seeds == 1 and np.isnan(result.detectable)


@pytest.mark.parametrize(
    ("difference", "low", "high", "detectable", "word"),
    [
        (0.05, 0.02, 0.08, 0.04, HOLDS),
        (-0.05, -0.08, -0.02, 0.04, FAILS),
        (0.05, -0.01, 0.11, 0.04, UNTOLD),
        (0.03, 0.01, 0.05, 0.04, UNTOLD),
        (0.0, 0.0, 0.0, 0.0, UNTOLD),
        (0.05, 0.02, 0.08, np.nan, UNTOLD),
        (0.05, np.nan, np.nan, np.nan, UNTOLD),
    ],
)
def test_verdicts(difference: float, low: float, high: float, detectable: float, word: str) -> None:
    result = Comparison(0, 0, difference, low, high, 0, detectable, 9, 2, 0, (low, high))
    assert orderings.verdict(result) == word


CLAIMS = [
    {"says": "best is best", "better": "best", "than": ["same", "worse"]},
    {"says": "the other way", "better": "worse", "than": ["best"]},
    {"says": "wide", "better": "codes#2/2", "than": ["codes#1/2"]},
    {"says": "of four", "better": "codes#3/4", "than": ["codes#4/4"]},
]


def test_orderings_say_what_holds(made: tuple) -> None:
    found = orderings.orderings(made[1], CLAIMS, ["hr@10"])
    assert found["verdict"].tolist() == [UNTOLD, HOLDS, FAILS, UNTOLD, NOT_RUN]
    assert found.loc[3, ["better", "than"]].tolist() == ["codes=16", "codes=8"]
    assert found.loc[1, "difference"] == pytest.approx(0.2) and found.loc[1, "seeds"] == 2
    assert found.loc[2, "low"] < -0.2 < found.loc[2, "high"]
    words = orderings.in_words(found)
    assert "**HR@10**: of 4 comparisons that the claims imply, 1 hold, 1 do not hold, 2 cannot be told." in words
    assert "1 of them have one seed" in words
    assert "- “the other way”. HR@10: **does not hold** for worse over best." in words
    assert "- “of four”. **not run** for codes#3/4 over codes#4/4." in words
    table = orderings.verdict_table(found)
    assert table.loc[1, "HR@10 verdict"] == HOLDS and table.loc[4, "verdict"] == NOT_RUN
    assert table.loc[1, "HR@10"].startswith("+0.2000 [+0.1")


def test_rows_go_by_the_names_that_the_published_table_gives_them(tmp_path: Path) -> None:
    rows = ["(0) MusicRec", "(1) w/o I-Sem", "(1b) w/o image", "(2) w/o T-Sem", "(2b) w/o text"]
    results = results_of(tmp_path, {row: [hits(0.5)] for row in rows})
    claims = [
        {"says": "a", "better": "(0) MusicRec", "than": ["(1) w/o I-Sem"]},
        {"says": "b", "better": "(1) w/o I-Sem", "than": ["(2) w/o T-Sem"]},
    ]
    found = orderings.orderings(orderings.ranks_of(results, tmp_path), claims, ["hr@10"], "musicrec_table3")
    pairs = list(zip(found["better"], found["than"], strict=True))
    assert pairs == [(rows[0], rows[1]), (rows[0], rows[2]), (rows[1], rows[3]), (rows[2], rows[4])]
    assert found["printed"].tolist()[:2] == ["12 of 12 cells, +27.6% on average"] * 2


def test_nothing_run_is_said(made: tuple) -> None:
    found = orderings.orderings(made[1], [CLAIMS[3]], ["hr@10"])
    assert orderings.in_words(found).startswith("None of the comparisons was run.")
    assert orderings.verdict_table(found)["verdict"].tolist() == [NOT_RUN]


def test_against_one_row_the_largest_gain_comes_first(made: tuple) -> None:
    found = orderings.against(made[1], "worse", ["hr@10", "hr@5"])
    assert list(dict.fromkeys(found["better"]))[:2] == ["best", "same"] and found["better"].iloc[-1] == "codes=8"
    assert len(found) == 8 and orderings.against({}, "worse", ["hr@10"]).empty


def test_named_rows() -> None:
    assert orderings.named(CLAIMS[:2]) == {"best", "same", "worse"}
