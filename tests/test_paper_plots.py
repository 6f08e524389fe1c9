"""The papers' figures: what is drawn, and that equal input gives equal bytes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from musicrec_kit import orderings, paper_plots, paper_tables, plots
from tests.paper_results import hits, results_of

FIG3 = {
    "alpha=0.1": [hits(0.2), hits(0.3)],
    "alpha=0.01": [hits(0.4), hits(0.5)],
    "alpha=0.001": [hits(0.3), hits(0.3)],
    "beta=0.01": [hits(0.3), hits(0.4)],
    "beta=0.0001": [hits(0.4), hits(0.5)],
}
FIG4 = {f"codes={n}": [hits(n / 200)] for n in (8, 16, 32, 64)} | {
    "shared:specific=1:3": [hits(0.2)],
    "shared:specific=1:1": [hits(0.3)],
}
FIG5 = {"MGR-LF": [hits(0.2), hits(0.3)], "+ alignment": [hits(0.3), hits(0.3)], "MGR-LF++": [hits(0.4), hits(0.4)]}


def test_values_hold_every_seed_beside_the_mean(tmp_path: Path) -> None:
    values = paper_plots.values_of(results_of(tmp_path, FIG3), "musicrec_fig3")
    assert list(dict.fromkeys(values["panel"])) == ["alpha", "beta"] and set(values["metric"]) == {"HR@10", "N@10"}
    first = values[(values["row"] == "alpha=0.1") & (values["metric"] == "HR@10")]
    assert first["value"].tolist() == [0.2, 0.3] and first["mean"].tolist() == [0.25, 0.25]
    assert first["level"].tolist() == ["0.1", "0.1"]
    assert paper_plots.values_of(results_of(tmp_path, FIG5), "mgr_fig5")["level"].iloc[0] == "MGR-LF"


def test_lines_over_a_log_axis_with_band_points_and_the_papers_best(tmp_path: Path) -> None:
    figure = paper_plots.over_axes(paper_plots.values_of(results_of(tmp_path, FIG3), "musicrec_fig3"), "musicrec_fig3")
    alpha, beta = figure.axes[:2]
    assert len(figure.axes) == 4 and alpha.get_xscale() == "log"
    line = next(line for line in alpha.lines if line.get_label() == "toy")
    assert line.get_xdata().tolist() == [0.001, 0.01, 0.1]
    assert np.asarray(line.get_ydata()).tolist() == pytest.approx([0.3, 0.45, 0.25])
    assert len(alpha.collections) == 1, "the band"
    assert [text.get_text() for text in alpha.texts] == ["best in the paper"] and alpha.texts[0].xy[0] == 0.01
    assert beta.texts[0].xy[0] == 0.0001
    assert [label.get_text() for label in figure.axes[3].get_xticklabels()] == ["0.01", "0.0001"]


def test_words_are_bars_and_the_third_of_four_is_the_papers_best(tmp_path: Path) -> None:
    figure = paper_plots.over_axes(paper_plots.values_of(results_of(tmp_path, FIG4), "musicrec_fig4"), "musicrec_fig4")
    codes, ratio = figure.axes[:2]
    assert codes.texts[0].xy[0] == 32
    assert [bar.get_height() for bar in ratio.patches] == [0.2, 0.3] and ratio.get_ylim()[0] == 0
    assert [label.get_text() for label in figure.axes[3].get_xticklabels()] == ["1:3", "1:1"]
    assert ratio.patches[0].get_hatch() != ratio.patches[1].get_hatch(), "told apart without colour"
    fewer = {row: ranks for row, ranks in FIG4.items() if row != "codes=64"}
    values = paper_plots.values_of(results_of(tmp_path, fewer), "musicrec_fig4")
    assert not paper_plots.over_axes(values, "musicrec_fig4").axes[0].texts, "three sizes have no third of four"


def test_a_bar_per_row_and_a_panel_per_metric(tmp_path: Path) -> None:
    figure = paper_plots.over_rows(paper_plots.values_of(results_of(tmp_path, FIG5), "mgr_fig5"), "mgr_fig5")
    assert [axis.get_title("left") for axis in figure.axes] == ["MRR", "NDCG", "Hits@5"]
    assert [bar.get_height() for bar in figure.axes[2].patches] == pytest.approx([0.25, 0.3, 0.4])


@pytest.fixture
def found(tmp_path: Path) -> pd.DataFrame:
    ranks = orderings.ranks_of(results_of(tmp_path, FIG5), tmp_path)
    claims = [
        {"says": "a", "better": "MGR-LF++", "than": ["MGR-LF", "nobody"]},
        {"says": "b", "better": "MGR-LF", "than": ["MGR-LF++"]},
        {"says": "c", "better": "+ alignment", "than": ["MGR-LF"]},
    ]
    return orderings.orderings(ranks, claims, ["hr@5", "hr@5/no_history"])


def test_differences_show_intervals_and_verdicts(found: pd.DataFrame) -> None:
    figure = paper_plots.differences(found)
    assert [axis.get_title("left") for axis in figure.axes] == ["HR@5", "HR@5 new"]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["MGR-LF++ over MGR-LF", "MGR-LF over MGR-LF++", "+ alignment over MGR-LF"]
    points = [line for line in figure.axes[0].lines if line.get_marker() in "osD" and len(line.get_xdata()) == 1]
    assert len({(p.get_marker(), p.get_markerfacecolor()) for p in points}) == found["verdict"].nunique() - 1
    assert paper_plots.differences(found.iloc[:0]).axes[0].texts[0].get_text() == "none of the comparisons was run"


def test_a_table_of_words_is_drawn_with_its_index_first() -> None:
    words = pd.DataFrame({"IMM": ["✓", "✗"]}, index=["a", "b"])
    (axis,) = paper_plots.picture_of_text(words, "a note").axes
    assert {"IMM", "a", "b", "✓", "✗", "a note"} == {text.get_text() for text in axis.texts}


def test_a_picture_of_a_table_holds_its_text(tmp_path: Path) -> None:
    results = results_of(tmp_path, {"mgr_lf": [hits(0.4), hits(0.45)], "mgr_lf_pp": [hits(0.5), hits(0.6)]})
    table = paper_tables.paper_table(results, "mgr_table5", orderings.ranks_of(results, tmp_path))
    (axis,) = paper_plots.picture_of(table).axes
    texts = {text.get_text(): text for text in axis.texts}
    assert {"mgr_lf", "mgr_lf_pp", "0.5500", "0.4250", "toy", "Hits@5", "Imp. (%)"} <= set(texts)
    assert texts["0.5500"].get_weight() == "bold" and texts["0.4250"].get_weight() == "normal"
    right = axis.get_xlim()[1]
    assert all(text.get_position()[0] <= right for text in axis.texts)


def test_a_figure_and_a_table_are_written_with_the_same_bytes_twice(tmp_path: Path) -> None:
    results = results_of(tmp_path, FIG3)
    values = paper_plots.values_of(results, "musicrec_fig3")
    rows = results_of(tmp_path / "t", {"mgr_lf": [hits(0.4)], "mgr_lf_pp": [hits(0.5)]})
    table = paper_tables.paper_table(rows, "mgr_table5", orderings.ranks_of(rows, tmp_path / "t"))
    for folder in (tmp_path / "one", tmp_path / "two"):
        plots.save(paper_plots.over_axes(values, "musicrec_fig3"), values, "fig3", folder)
        paper_plots.save_table(table, "table", folder)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(names) == 2 * 3 + 1 and "table.tex" in names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
