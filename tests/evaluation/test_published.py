"""The papers' tables: as printed, impossible cells found anew, joined with ours only where data are the same."""

import itertools

import numpy as np
import pandas as pd
import pytest

from musicrec_kit import methods
from musicrec_kit.evaluation import published

TABLES = [name for name in methods.names("published") if "table" in name]
OF_CLAIMS = {"note", "caution", "gain", "best", "datasets", "metrics"}  # read by the ledger alone
OF_STATEMENTS = {"says", "better", "than", "where", "greatest", "drop", "verdict", "because", "except", "improvement"}
MUSICREC = ("musicrec_table2", "musicrec_table3")
INSTRUMENTS = {"name": "instruments", "users": 17112, "items": 6250, "interactions": 136226}


def rows_of(name: str) -> dict[tuple[str, str], dict[str, float]]:
    """Return (method, data set) -> metric as printed -> value."""
    tidy = published.table(name)
    places = tidy.groupby(["method", "dataset"], sort=False)
    return {place: dict(zip(rows["metric"], rows["value"], strict=True)) for place, rows in places}


def test_all_tables_of_both_papers_are_there() -> None:
    wanted = {f"musicrec_table{n}" for n in (1, 2, 3)} | {f"mgr_table{n}" for n in (1, 2, 3, 4, 5)}
    assert wanted == set(TABLES)
    assert {f"musicrec_fig{n}" for n in (3, 4)} | {f"mgr_fig{n}" for n in (5, 6)} <= set(methods.names("published"))


@pytest.mark.parametrize(
    ("name", "cells", "method", "dataset", "metric", "value"),
    [
        ("musicrec_table2", 13 * 12, "Ours", "Arts", "N@10", 0.1049),
        ("musicrec_table2", 13 * 12, "VQ-Rec", "Games", "HR@5", 0.0408),
        ("musicrec_table3", 7 * 12, "(5) w/o MMG", "Instruments", "HR@10", 0.1396),
        ("mgr_table5", 9 * 9, "MGR-LF++", "Beauty", "Hits@5", 0.0334),
        ("mgr_table1", 9, "", "Sports", "Txt vs. Multimodal", 0.6351),
        ("mgr_table2", 9, "", "Beauty", "Img vs. Multimodal", 0.4911),
        ("mgr_table3", 9, "", "Toys", "Text Only", 0.0598),
        ("mgr_table4", 9, "", "Beauty", "# Users", 22334),
        ("musicrec_table1", 24, "MISSRec", "", "Fusion Type", "discrete"),
    ],
)
def test_cells_are_as_printed(name: str, cells: int, method: str, dataset: str, metric: str, value: object) -> None:
    tidy = published.table(name)
    assert len(tidy) == cells
    found = tidy[(tidy["method"] == method) & (tidy["dataset"] == dataset) & (tidy["metric"] == metric)]
    assert found["value"].tolist() == [value]


@pytest.mark.parametrize("name", MUSICREC)
def test_exactly_the_impossible_cells_are_marked(name: str) -> None:
    """The bound of one relevant item per user, with every value anywhere in the interval that rounding leaves."""
    tidy = published.table(name)
    marked = set(tidy.loc[tidy["impossible"], ["method", "dataset", "metric"]].itertuples(index=False, name=None))
    found = set()
    for (method, dataset), row in rows_of(name).items():
        values = [row[m] for m in ("HR@5", "HR@10", "N@5", "N@10")]
        # the bound is linear, so that a solution exists if and only if one does at some corner of the box
        corners = itertools.product(*((v - 0.00005, v + 0.00005) for v in values))
        gaps = [(h10 - h5, n10 - n5) for h5, h10, n5, n10 in corners]
        least = min(n - h / np.log2(7) for h, n in gaps)
        most = max(n - h / np.log2(11) for h, n in gaps)
        if least > 0 or most < 0:
            found.add((method, dataset, "N@10"))
    assert found == marked and marked
    for (method, dataset), row in rows_of(name).items():
        values = {"hr@5": row["HR@5"], "hr@10": row["HR@10"], "ndcg@5": row["N@5"], "ndcg@10": row["N@10"]}
        assert published.impossible(values) == ((method, dataset, "N@10") in marked)


def test_the_marked_cells_are_those_of_the_known_list() -> None:
    tidy = published.table("musicrec_table3")
    marked = tidy[tidy["impossible"]].groupby("method")["dataset"].agg(list).to_dict()
    assert marked == {
        "(0) MusicRec": ["Instruments", "Arts"],
        "(3) w/o L_align": ["Instruments", "Arts", "Games"],
        "(4) w/o L_rel": ["Arts", "Games"],
        "(5) w/o MMG": ["Arts", "Games"],
        "(6) w/o MMA": ["Arts"],
    }


def test_rows_that_a_correct_evaluator_gives_are_never_impossible() -> None:
    from musicrec_kit.evaluation import metrics

    generator = np.random.default_rng(0)
    for _ in range(50):
        ranks = generator.integers(0, 25, 400)
        values = {name: round(float(metrics.per_user(ranks, name).mean()), 4) for name in ("hr@5", "hr@10")}
        values |= {name: round(float(metrics.per_user(ranks, name).mean()), 4) for name in ("ndcg@5", "ndcg@10")}
        assert not published.impossible(values)
    assert not published.impossible({"hr@10": 0.1})


def test_every_triple_of_mgr_fits_a_cut_off_of_five() -> None:
    """Given Hits@5 and MRR@5, NDCG@5 lies between the chord and the hull of (1/r, 1/log2(r+1)), r = 1 ... 5."""
    ranks = np.arange(1, 6)
    x, y = (1 / ranks)[::-1], (1 / np.log2(ranks + 1))[::-1]
    for row in rows_of("mgr_table5").values():
        slack = 0.00005
        for sign in (-1, 1):
            hits = row["Hits@5"] + sign * slack
            reciprocal = np.clip(np.array([row["MRR"] - slack, row["MRR"] + slack]) / hits, x[0], 1)
            low = hits * np.interp(reciprocal[0], x[[0, -1]], y[[0, -1]])
            high = hits * np.interp(reciprocal[1], x, y)
            assert low - 2 * slack <= row["NDCG"] <= high + 2 * slack, row


def test_the_printed_improvements_follow_from_the_printed_cells() -> None:
    raw, tidy = published.read("musicrec_table2"), published.table("musicrec_table2")
    for dataset, percents in raw["improvement"].items():
        for metric, percent in zip(raw["metrics"], percents, strict=True):
            column = tidy[(tidy["dataset"] == dataset) & (tidy["metric"] == metric)].set_index("method")["value"]
            best = column.drop("Ours").max()
            assert 100 * (column["Ours"] / best - 1) == pytest.approx(percent, abs=0.02)


@pytest.mark.parametrize("name", methods.names("published"))
def test_files_are_consistent(name: str) -> None:
    raw = published.read(name)
    assert {"paper", "source", "caption", "metrics", "datasets", "values"} <= set(raw)
    rows = set(raw["values"])
    assert set((raw.get("rows") or {}).values()) <= rows
    assert not rows or raw.get("main", next(iter(rows))) in rows
    for claim in raw.get("claims") or []:
        assert {"says", "better", "than"} <= set(claim) <= {"says", "better", "than", *OF_CLAIMS}
        if rows:
            assert {claim["better"], *claim["than"]} <= rows
    for told in raw.get("statements") or []:
        assert {"says"} < set(told) <= {*OF_CLAIMS, *OF_STATEMENTS}
        assert ("because" in told) != ("better" in told), f"{told['says']}: our rows, or why there are none"
        assert "verdict" not in told or "because" in told
        gain = told.get("gain", {})
        asked = [told.get("better"), *told.get("than", []), gain.get("of"), *gain.get("over", [])]
        asked += [told.get("best", {}).get("row"), *told.get("best", {}).get("among", [])]
        assert {name for name in asked if isinstance(name, str)} <= rows
    for counts in raw["datasets"].values():
        assert set(counts) <= set(published.COUNTS)


def test_claims_and_controls_of_figures_name_rows_of_their_sweeps() -> None:
    from musicrec_kit import sweep

    pairs = {"musicrec_fig3": "musicrec_fig3", "musicrec_fig4": "musicrec_fig4", "mgr_fig5": "mgr_fig5"}
    pairs |= {"mgr_fig6": "mgr_fig6"}
    for name, of in pairs.items():
        rows = {cell.levels["row"] for cell in sweep.cells(sweep.read(of))}
        for claim in published.read(name)["claims"]:
            for row in (claim["better"], *claim["than"]):
                stem, counted, place = row.partition("#")
                of_axis = [r for r in rows if r.startswith(f"{stem}=")]
                assert row in rows or (counted and len(of_axis) == int(place.split("/")[1])), f"{name}: {row}"
    rows = {cell.levels["row"] for cell in sweep.cells(sweep.read("controls"))}
    for name in ("musicrec_table3", "mgr_table5"):
        for claim in published.read(name)["controls"]:
            assert {claim["better"], *claim["than"]} <= rows


BESIDE = {"item_knn", "sasrec_tuned", "esasrec"}  # beside the papers' rows: what a reviewer asks for


def test_rows_of_the_sweeps_are_rows_of_the_tables() -> None:
    from musicrec_kit import sweep

    for name in ("musicrec_table2", "musicrec_table3", "mgr_table5"):
        rows = {cell.levels["row"] for cell in sweep.cells(sweep.read(name))}
        assert rows - BESIDE <= set(published.read(name)["rows"])


def test_layout_and_marks() -> None:
    wide = published.as_printed("musicrec_table3")
    assert wide.shape == (7, 12) and wide.loc["(3) w/o L_align", ("Games", "N@10")] == "0.0624†"
    assert wide.loc["(0) MusicRec", ("Games", "N@10")] == "0.0681"
    assert published.as_printed("mgr_table4").loc["Sports"].tolist() == ["35,393", "18,287", "80% / 10% / 10%"]
    assert published.as_printed("musicrec_table1").loc["MusicRec", "Fusion Type"] == "combined"


OURS = pd.DataFrame(
    [("musicrec", "hr@10", 0.14), ("musicrec", "hr@10", 0.16), ("musicrec", "ndcg@10", 0.1), ("mine", "hr@10", 0.2)],
    columns=["row", "metric", "value"],
)


def test_beside_joins_rows_and_metrics_of_the_same_data() -> None:
    made = published.beside(OURS, "musicrec_table2", INSTRUMENTS)
    assert made.same == "Instruments" and "mine" in made.says and "†" in made.says
    assert made.rows["row"].tolist() == ["musicrec"] * 2 and made.rows["published row"].tolist() == ["Ours"] * 2
    assert made.rows["metric"].tolist() == ["HR@10", "N@10"]
    first = made.rows.iloc[0]
    assert (first["ours"], first["published"]) == (pytest.approx(0.15), 0.1472)
    assert first["difference"] == pytest.approx(0.15 - 0.1472) and not first["impossible"]
    assert made.rows["impossible"].tolist() == [False, True]


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ({**INSTRUMENTS, "users": 24772}, "users 24,772 here, 17,112 there"),
        ({"name": "demo", "users": 3, "items": 2, "interactions": 9}, "is no data set of the paper"),
        ({**INSTRUMENTS, "interactions": None}, "interactions not counted here, 136,226 there"),
    ],
)
def test_other_data_are_kept_apart(manifest: dict, words: str) -> None:
    made = published.beside(OURS, "musicrec_table2", manifest)
    assert made.same is None and made.rows.empty and words in made.says and "kept apart" in made.says


def test_agreement_counts_cells_and_averages_gains() -> None:
    assert published.agreement("mgr_table5", "MGR-LF++", "MGR-LF") == (8, 9, pytest.approx(0.124, abs=0.0005))
    assert published.agreement("mgr_table5", "MGR-EF", "TIGER(CLIP-text)")[2] == pytest.approx(-0.057, abs=0.0005)
    assert published.agreement_in_words("musicrec_table2", "LETTER", "TIGER").startswith("8 of 12 cells")
    assert published.agreement_in_words("musicrec_fig3", "alpha=0.01", "alpha=0.1") == ""
