"""The ledger: arithmetic on printed cells by hand, verdicts of our rows, and no cell left out."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from musicrec_kit import ledger, methods, orderings, runs
from musicrec_kit.evaluation import published
from musicrec_kit.pipeline import Job

ROOT = Path(__file__).parents[1]


def says(name: str, words: str) -> dict:
    """Return a paper's statement that begins so."""
    (found,) = [s for s in ledger.statements(name) if s["says"].startswith(words)]
    return found


@pytest.mark.parametrize(
    ("name", "words", "verdict", "part"),
    [
        # MGR Table 5 by hand: the nine ratios of EF over CLIP-text are 1.065 1.069 1.078 .932 .940 .943 .835 .827 .803
        (
            "mgr_table5",
            "MGR-EF improves",
            "contradicts",
            "(CLIP-text) -5.7% on average, -19.7% to +7.8% in 9 cells",
        ),
        ("mgr_table5", "MGR-LF improves", "contradicts", "over TIGER(CLIP-text) -0.3% on average"),
        ("mgr_table5", "MGR-LF++ improves over", "in part", "over MGR-LF +12.4% on average"),
        ("mgr_table5", "MGR-LF++ improves by over", "in part", "over TIGER(CLIP-text) +11.9% on average"),
        ("mgr_table5", "multimodal information", "agrees", "-1.0% to +29.0% in 9 cells"),
        ("mgr_table5", "LETTER performs", "agrees", "over LETTER in 9 of 9 cells"),
        (
            "mgr_table5",
            "MGR-LF++ achieves best",
            "in part",
            "7 of 9 cells (Beauty Hits@5: MGR-LF; Sports MRR: TIGER",
        ),
        ("mgr_table2", "text and multimodal", "in part", "in 2 of 3 data sets (Beauty: Img vs. Multimodal)"),
        ("mgr_table1", "the agreement of text", "agrees", "in 3 of 3 data sets"),
        ("mgr_table3", "performance degrades", "agrees", "Toys from Text Only: -19%; Toys from Image Only: -3%"),
        ("musicrec_table2", "LETTER consistently", "in part", "over TIGER in 8 of 12 cells"),
        ("musicrec_table2", "MISSRec, which", "agrees", "in 4 of 4 cells"),
        # VQ-Rec is best in all four, and so it is not as said in the one that is excepted
        ("musicrec_table2", "VQ-Rec performs best", "in part", "in 3 of 4 cells (Arts N@5: VQ-Rec)"),
        ("musicrec_table2", "MusicRec improves by", "agrees", "12 of 12 percentages follow"),
        ("musicrec_table2", "MusicRec achieves", "agrees", "in all 144 cells, by +20.8% to +65.4%"),
        ("musicrec_fig3", "α = 1e-2", "", ""),
    ],
)
def test_what_the_papers_own_tables_say(name: str, words: str, verdict: str, part: str) -> None:
    found, told = ledger.on_paper(name, says(name, words))
    assert found == verdict and part in told


def test_a_best_row_is_found_by_the_slow_way() -> None:
    tidy = published.table("musicrec_table2")
    rows = ["Ours", "TIGER", "LETTER", "VIP5"]
    for claimed in rows:
        others = [row for row in rows if row != claimed]
        won = sum(
            max(rows, key=lambda row: cell[cell["method"] == row]["value"].item()) == claimed
            for _, cell in tidy[tidy["method"].isin(rows)].groupby(["dataset", "metric"])
        )
        _, told = ledger.on_paper("musicrec_table2", {"best": {"row": claimed, "among": others}})
        assert f"in {won} of 12 cells" in told


def test_every_claim_has_a_verdict_and_says_why() -> None:
    table = ledger.claims({})
    assert list(table) == ledger.CLAIMS and len(table) > 35 and set(table["paper"]) == {"MGR", "MusicRec"}
    kinds = {orderings.HOLDS, orderings.FAILS, orderings.UNTOLD, orderings.NOT_RUN, ledger.UNTESTED}
    assert set(table["here"]) <= kinds and set(table["own table"]) <= {"", "agrees", "in part", "contradicts"}
    assert (table.loc[~table["here"].isin([orderings.NOT_RUN]), "why"] != "").all()
    for cited in re.findall(r"figures/[\w.]+", " ".join(table["why"])):
        assert (ROOT / cited).is_file(), f"{cited} is cited and not there"


def found(verdicts: list[str], claim: str) -> pd.DataFrame:
    line = {"claim": claim, "better": "a", "metric": "hr@10", "difference": 0.01, "low": 0.0, "high": 0.02}
    line |= {"first": 0.11, "second": 0.10}
    return pd.DataFrame([{**line, "than": f"b{i}", "verdict": verdict} for i, verdict in enumerate(verdicts)])


@pytest.mark.parametrize(
    ("verdicts", "word"),
    [
        (["holds", "holds"], "holds"),
        (["holds", "cannot be told"], "holds in part"),
        (["holds", "does not hold"], "does not hold"),
        (["cannot be told"], "cannot be told"),
        (["not run"], "not run"),
        (["not run", "holds"], "holds in part"),
        (["not run", "cannot be told"], "cannot be told"),
    ],
)
def test_a_claim_about_several_rows_holds_if_it_does_over_all(verdicts: list[str], word: str) -> None:
    claim = "MusicRec achieves the top performance on all datasets"
    table = ledger.claims({"musicrec_table2": found(verdicts, claim)}).set_index("claim")
    assert table.loc[claim, "here"] == word
    if word not in (orderings.NOT_RUN,):
        assert "a over b" in table.loc[claim, "why"] and "+0.010 [+0.000, +0.020]" in table.loc[claim, "why"]
    assert ("not run: b" in table.loc[claim, "why"]) == ("not run" in verdicts and word != "not run")
    assert (table.loc[table.index != claim, "here"] != "holds in part").all()


def test_a_claimed_gain_has_to_be_reached() -> None:
    for printed, word in ((0.20, "holds in part"), (0.10, "holds")):
        told = {"says": "it gains", "better": "a", "than": ["b0"], "gain": {"printed": printed}}
        assert ledger._here(told, found(["holds"], "it gains"))[0] == word


def test_verdicts_are_asked_in_the_tables_own_metric() -> None:
    rng = np.random.default_rng(0)
    rows = ("missrec", "fdsa", "vq_rec")
    ranks = {("demo", row): orderings.Ranks((0, 1), *(rng.integers(0, 20, (2, 50)) for _ in range(2))) for row in rows}
    table = ledger.verdicts("musicrec_table2", ranks)
    asked = table[table["metric"] != ""].set_index("claim")["metric"]
    assert set(asked[asked.index.str.startswith("FDSA")]) == {"ndcg@10"}
    assert set(asked[asked.index.str.startswith("MISSRec")]) == {"hr@10"}
    assert set(table["claim"]) == {told["says"] for told in ledger.ordered("musicrec_table2")}


def test_every_printed_cell_is_there_with_a_number_or_a_reason(tmp_path: Path) -> None:
    table = ledger.cells(tmp_path)
    printed = [name for name in methods.names("published") if published.read(name)["values"]]
    assert len(table) == sum(len(published.table(name)) for name in printed) and set(table["table"]) == set(printed)
    assert (table["reason"] != "").all() and table["ours"].isna().all() and table["gap"].isna().all()
    assert table["impossible"].sum() == table["reason"].str.startswith("impossible as printed").sum() > 10
    # no reason is the lazy one: every table says why its data are not here
    assert not (table["reason"].str.removeprefix("impossible as printed; ") == "not run").any()


def test_a_run_on_the_papers_data_stands_beside_its_cell_and_others_do_not(tmp_path: Path, monkeypatch) -> None:
    quick = {"generator": {"steps": 2, "batch": 16}}
    jobs = [Job("demo_tiny", "tiger", "smoke", seed, tmp_path, None, quick) for seed in (0, 1)]
    values = [job.metrics["test/main/hr@10"] for job in jobs]
    assert ledger.cells(tmp_path, ["musicrec_table2"])["ours"].isna().all(), "other data"
    raw = published.read("musicrec_table2")
    counts = {count: jobs[0].dataset.manifest[count] for count in ("users", "items", "interactions")}
    raw["datasets"]["Arts"] = counts
    monkeypatch.setattr(published, "read", lambda name: raw)
    table = ledger.cells(tmp_path, ["musicrec_table2"])
    ours = table[table["ours"].notna()]
    assert set(zip(ours["dataset"], ours["row"], strict=True)) == {("Arts", "TIGER")} and len(ours) == 4
    cell = ours.set_index("metric").loc["HR@10"]
    assert cell["ours"] == pytest.approx(np.mean(values)) and cell["gap"] == pytest.approx(np.mean(values) - 0.1167)
    assert cell["reason"] == "size smoke, 2 seeds, T5 tiny, 2 steps" and cell["run"].startswith("demo_tiny/tiger+")
    # an ablation is another row than the method's own, a run with another budget is not
    run = runs.load_run(jobs[0].run_folder)
    for changes, row in (({}, True), ({"generator.epochs": 3}, True), ({"tokenizer.alpha": 0.0}, False)):
        one = ledger.Trained(run, {}, changes)
        assert ledger._is_of(one, {"method": "tiger"}) == row and not ledger._is_of(one, {})
        assert ledger._is_of(one, {"method": "tiger", "tokenizer": {"alpha": 0.0}}) == (not row)
    cut = {**counts, "protocol": "temporal"}
    assert published.same_data("musicrec_table2", counts)[0] == "Arts"
    assert published.same_data("musicrec_table2", cut)[0] is None


def test_real_data_have_their_runs_and_their_counters(tmp_path: Path, monkeypatch) -> None:
    quick = {"sequential": {"epochs": 1}}
    jobs = [Job("demo_tiny", "sasrec", "smoke", seed, tmp_path, None, quick) for seed in (0, 1)]
    metrics = [job.metrics for job in jobs]
    assert ledger.on_real_data(tmp_path).empty, "generated data are not real"
    monkeypatch.setattr(ledger.tables, "data_manifest", lambda run: {"source": "table"})
    table = ledger.on_real_data(tmp_path).set_index("row")
    assert list(table.index) == [f"sasrec{jobs[0].variant}", "counter: markov", "counter: popularity"]
    assert table.iloc[0]["hr@10"] == pytest.approx(np.mean([m["test/main/hr@10"] for m in metrics]))
    assert table.loc["counter: markov", "hr@10/no_history"] == metrics[0]["test/markov/hr@10/no_history"]
    assert table["seeds"].tolist() == [2, 1, 1]
