"""Rows beyond their mean: strata against a loop over users, costs against the stages' records, learning curves."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from musicrec_kit import orderings, row_tables, runs, sweep
from musicrec_kit.data import held_out
from musicrec_kit.evaluation.strata import strata
from musicrec_kit.orderings import Ranks

ROWS = {
    "datasets": ["demo_tiny"],
    "size": "smoke",
    "seeds": [0, 1],
    "settings": [{"set": {"sequential": {"epochs": 2}}}],
    "axes": {"row": {"popularity": {"method": "popularity"}, "sasrec": {"method": "sasrec"}}},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[sweep.Cell], pd.DataFrame, Path]:
    folder = tmp_path_factory.mktemp("runs")
    cells = list(sweep.cells(ROWS))
    return cells, sweep.ensure(cells, folder), folder


def test_a_stratum_is_its_users() -> None:
    ranks = {("d", "a"): Ranks((0, 1), np.array([[1, 0, 11], [3, 0, 1]]), np.array([[1, 2, 0], [1, 2, 0]]))}
    some = pd.DataFrame(
        {"all": [True] * 3, "two": [True, False, True], "one": [False, True, False], "none": [False] * 3}
    )
    found = row_tables.by_stratum(ranks, some).set_index("stratum")
    # users' means over seeds: 1, 0, 1/2
    assert found["mean"].tolist()[:3] == [0.5, 0.75, 0.0] and np.isnan(found["mean"]["none"])
    assert found["users"].tolist() == [3, 2, 1, 0]
    reach = 1.959964 * np.std([1, 0.5], ddof=1) / np.sqrt(2)
    assert found["high"]["two"] == pytest.approx(0.75 + reach) and np.isnan(found["low"]["one"])
    assert row_tables.by_stratum(ranks, some, "hr@10/no_history").set_index("stratum")["mean"]["all"] == pytest.approx(
        2 / 3
    )
    wide = row_tables.strata_layout(found.reset_index())
    assert list(wide) == ["all (3)", "two (2)", "one (1)", "none (0)"] and wide.loc["a", "two (2)"] == 0.75
    with pytest.raises(AssertionError, match="2 users in strata"):
        row_tables.by_stratum(ranks, some[:2])


def test_strata_of_runs_are_means_over_their_users(made: tuple) -> None:
    cells, results, folder = made
    sequences = cells[0].job(folder, None).sequences
    chosen = strata(sequences, held_out(sequences, "test", 10**9))
    found = row_tables.by_stratum(orderings.ranks_of(results, folder), chosen).set_index(["row", "stratum"])
    values = []
    for run in results.loc[results["row"] == "sasrec", "run"].unique():
        users = runs.read_table(folder / run / "per_user.parquet")
        users = users[(users["split"] == "test") & (users["list"] == "main")].sort_values("user")
        values.append([0 < rank <= 10 for rank in users["rank"]])
    expected = np.mean(values, axis=0)[chosen["tail target"]]
    assert found.loc[("sasrec", "tail target"), "mean"] == pytest.approx(expected.mean())
    assert found.loc[("sasrec", "tail target"), "users"] == len(expected)


def test_every_row_is_held_against_the_best_other() -> None:
    rng = np.random.default_rng(0)

    def row(share: float) -> Ranks:
        ranks = (rng.random((3, 300)) < share).astype(int)
        return Ranks((0, 1, 2), ranks, ranks)

    ranks = {("d", name): row(share) for name, share in (("low", 0.1), ("high", 0.5), ("middle", 0.3))}
    found = row_tables.against_best(ranks).set_index("row")
    assert found["best other"].to_dict() == {"low": "high", "high": "middle", "middle": "high"}
    plain = {name: ranks["d", name].plain.mean(axis=1) for name in found.index}
    for name, best in found["best other"].items():
        assert found["mean"][name] == pytest.approx(plain[name].mean())
        assert found["deviation"][name] == pytest.approx(plain[name].std(ddof=1))
        assert found["difference"][name] == pytest.approx(plain[name].mean() - plain[best].mean())
    p = found["p"]
    ordered = p.sort_values()
    assert found["p holm"][ordered.index[0]] == pytest.approx(min(1, 3 * ordered.iloc[0]))
    assert (found["p holm"] >= p).all() and found["p holm"].max() <= 1
    alone = row_tables.against_best({("d", "only"): ranks["d", "low"]})
    assert alone["mean"][0] == pytest.approx(plain["low"].mean()) and pd.isna(alone["difference"][0])


def test_costs_are_what_the_stages_recorded(made: tuple) -> None:
    _, results, folder = made
    table = row_tables.costs(results, folder).set_index("row")
    records = []
    for run in results.loc[results["row"] == "sasrec", "run"].unique():
        found = runs.load_run(folder / run)
        records.append({s: runs.read_json(found.stage(s) / "stage.json") for s in found.stages})
    train = np.mean([record["recommender"]["seconds"] for record in records])
    assert table.loc["sasrec", "train (s)"] == pytest.approx(train) and train > 0
    assert table.loc["popularity", "train (s)"] == 0
    stages = ("recommender", "rank", "evaluate")
    assert table.loc["sasrec", "memory (MB)"] == max(r[s]["peak_memory_mb"] for r in records for s in stages)


def test_learning_is_what_validation_said_every_epoch(made: tuple) -> None:
    cells, results, folder = made
    found = row_tables.learning(results, folder)
    assert set(found["row"]) == {"sasrec"} and found.groupby("seed")["epoch"].apply(list).tolist() == [[1, 2], [1, 2]]
    job = next(cell for cell in cells if cell.method == "sasrec" and cell.seed == 0).job(folder, None)
    best = found.loc[found["seed"] == 0, "ndcg@10"].max()
    assert best == pytest.approx(job.metrics["valid/main/ndcg@10"], abs=1e-6), "the best epoch is the one that is kept"
    assert (found["seconds"] > 0).all()
