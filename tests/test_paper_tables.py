"""Tables in the papers' layout, from results whose marks and improvements are known."""

from pathlib import Path

import numpy as np
import pytest

from musicrec_kit import methods, orderings, paper_tables
from tests.paper_results import hits, results_of

ROWS = {
    "(0) MusicRec": [hits(0.54), hits(0.56)],
    "(3) w/o L_align": [hits(0.40), hits(0.40)],
    "(4) w/o L_rel": [hits(0.40), hits(0.40)],
    "(6) w/o MMA": [hits(0.24), hits(0.26)],
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> paper_tables.PaperTable:
    folder = tmp_path_factory.mktemp("runs")
    results = results_of(folder, ROWS)
    return paper_tables.paper_table(results, "musicrec_table3", orderings.ranks_of(results, folder))


def test_the_layout_is_the_papers(table: paper_tables.PaperTable) -> None:
    assert table.heads() == {"toy": ["HR@5", "HR@10", "N@5", "N@10"]}
    body = table.grid(lambda number, mark: number, lambda half: "")
    assert [line[0] for line in body] == [*ROWS, "Imp. (%)"]
    assert body[0][1:3] == ["0.5500", "0.5500"] and table.main == "(0) MusicRec"


def test_best_and_second_are_marked_and_equal_numbers_alike(table: paper_tables.PaperTable) -> None:
    marks = table.cells[table.cells["metric"] == "HR@10"].set_index("row")["mark"].to_dict()
    assert marks == {
        "(0) MusicRec": "best",
        "(3) w/o L_align": "second",
        "(4) w/o L_rel": "second",
        "(6) w/o MMA": "",
    }


def test_improvement_is_over_the_best_other_row(table: paper_tables.PaperTable) -> None:
    row = table.improvement.set_index("metric").loc["HR@10"]
    assert row["percent"] == pytest.approx(100 * (0.55 / 0.40 - 1)) and row["over"] == "(3) w/o L_align"
    assert row["p"] < 0.05 and row["difference"] == pytest.approx(0.15) and row["detectable"] > 0
    assert table.grid(lambda n, m: n, lambda h: "")[-1][2] == "+37.50*"


def test_a_row_that_is_not_best_has_a_negative_improvement_without_a_star(tmp_path: Path) -> None:
    results = results_of(tmp_path, {"(0) MusicRec": [hits(0.3)], "(5) w/o MMG": [hits(0.4)]})
    made = paper_tables.paper_table(results, "musicrec_table3", orderings.ranks_of(results, tmp_path))
    assert made.grid(lambda n, m: n, lambda h: "")[-1][1] == "-25.00"
    assert "one seed has no interval" in made.note() and "±" not in made.to_text()


def test_without_the_main_row_there_is_no_improvement_row(tmp_path: Path) -> None:
    results = results_of(tmp_path, {"(4) w/o L_rel": [hits(0.3)], "(5) w/o MMG": [hits(0.4)]})
    made = paper_tables.paper_table(results, "musicrec_table3", orderings.ranks_of(results, tmp_path))
    assert made.main == "" and made.improvement.empty and "Imp." not in made.to_text()
    assert len(made.frame()) == 8


def test_text_html_and_latex_hold_the_same_numbers(table: paper_tables.PaperTable) -> None:
    half = (table.cells["high"] - table.cells["low"]).iloc[0] / 2
    assert f"*0.5500* ±{half:.4f}" in table.to_text() and "_0.4000_" in repr(table)
    assert f"<b>0.5500</b> <small>±{half:.4f}</small>" in table._repr_html_() and "<u>0.4000</u>" in table.to_html()
    latex = table.to_latex()
    assert r"\textbf{0.5500} {\scriptsize$\pm$" in latex and r"\underline{0.4000}" in latex
    assert r"(3) w/o L\_align & " in latex and r"Imp. (\%) & +37.50*" in latex and r"\multicolumn{4}{c}{toy}" in latex
    assert "text: tiny" in table.note() and "2 seeds" in table.note()


def test_the_numbers_behind_the_table_hold_the_improvement(table: paper_tables.PaperTable) -> None:
    frame = table.frame()
    assert len(frame) == 4 * 4 + 4 and set(frame["row"]) == {*ROWS, "Imp. (%)"}
    assert frame[frame["row"] == "Imp. (%)"]["mean"].iloc[1] == pytest.approx(37.5)


def test_panels_stand_side_by_side(tmp_path: Path) -> None:
    import pandas as pd

    rows = {"mgr_lf": [hits(0.4)], "mgr_lf_pp": [hits(0.5)]}
    results = pd.concat([results_of(tmp_path, rows, name, name) for name in ("toys", "beauty")])
    made = paper_tables.paper_table(results, "mgr_table5", orderings.ranks_of(results, tmp_path))
    assert list(made.heads()) == ["toys", "beauty"] and made.heads()["beauty"] == ["MRR", "NDCG", "Hits@5"]
    assert made.main == "mgr_lf_pp" and len(made.improvement) == 6
    assert r"\cmidrule(lr){2-4}\cmidrule(lr){5-7}" in made.to_latex()
    assert np.isnan(made.cells["low"]).all()


def test_table_1_comes_from_the_settings_and_agrees_with_the_printed_one() -> None:
    names = [name for name in methods.names("methods") if name in ("tiger", "letter", "mql4grec", "musicrec")]
    made = paper_tables.axes_table(
        [*names, "popularity", "mgr_ef", "mgr_lf", "p5_cid", "vip5"], "demo_tiny", "smoke"
    ).set_index("method")
    assert (made["differs"] == "").all()
    for name in names:
        for head in ("IMM", "Fusion Type", "Collaborative", "GR"):
            assert made.loc[name, head] == made.loc[name, f"{head} printed"]
    assert made.loc["musicrec", ["IMM", "Fusion Type", "Collaborative", "GR"]].tolist() == ["✓", "combined", "✓", "✓"]
    assert made.loc["popularity", ["IMM", "GR", "IMM printed"]].tolist() == ["✗", "✗", ""]
    rows = paper_tables.axes_layout(made.reset_index())
    assert (
        rows.loc["   printed: MusicRec"].tolist() == rows.loc["musicrec"].tolist() and len(rows) == 2 * len(names) + 5
    )
    assert made.loc["mgr_ef", ["IMM", "Fusion Type"]].tolist() == ["✓", "combined"]
    assert made.loc["mgr_lf", ["IMM", "Fusion Type"]].tolist() == ["✓", "discrete"]
    # clusters of co-occurrence are collaborative, numbers are not
    assert made.loc[["p5_cid", "vip5"], "Collaborative"].tolist() == ["✓", "✗"]


def test_a_changed_cell_changes_table_1_and_is_told(tmp_path: Path) -> None:
    path = tmp_path / "musicrec.yaml"
    path.write_text("base: musicrec\ntokenizer: {alpha: 0.0, beta: 0.0}\n")
    settings = methods.resolve("demo_tiny", str(path), "smoke")
    assert paper_tables.axes_of(settings)["collaborative"] == "✗"
    separate = methods.resolve("demo_tiny", "musicrec", "smoke", {"tokenizer": {"kind": "rqvae"}})
    assert paper_tables.axes_of(separate)["fusion"] == "discrete"
