"""Sweeps: which cells there are, and what their tables say about runs whose metrics are known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from musicrec_kit import methods, runs, sweep
from musicrec_kit.params import Refused

COUNTERS = {
    "datasets": ["demo_tiny"],
    "size": "smoke",
    "axes": {
        "world_seed": {"w0": {}, "w1": {"data": {"demo": {"seed": 1}}}},
        "row": {"counter": {"method": "markov"}, "popularity": {"method": "popularity"}},
    },
    "contrast": {"row": "counter"},
}


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[sweep.Cell], pd.DataFrame]:
    """Return the runs of a sweep of two methods that need no training, over two worlds."""
    folder, cells = tmp_path_factory.mktemp("runs"), list(sweep.cells(COUNTERS))
    assert sweep.missing(cells, folder) == cells and sweep.results(cells, folder).empty
    assert sweep.ensure(cells[1:2], folder)["row"].unique().tolist() == [cells[1].levels["row"]]
    assert sweep.missing(cells, folder) == [cells[0], *cells[2:]]
    return folder, cells, sweep.ensure(cells, folder)


def test_cells_are_the_product_without_what_is_skipped() -> None:
    raw = {**COUNTERS, "seeds": [0, 1], "skip": [{"world_seed": ["w1"], "row": "popularity"}]}
    made = [(cell.seed, *cell.levels.values(), cell.method) for cell in sweep.cells(raw)]
    w0 = [
        (s, "w0", row, method) for row, method in (("counter", "markov"), ("popularity", "popularity")) for s in (0, 1)
    ]
    assert made == [*w0, (0, "w1", "counter", "markov"), (1, "w1", "counter", "markov")]


def test_the_shipped_worlds_have_every_row_that_the_claim_needs() -> None:
    cells = list(sweep.cells(sweep.read("demo_worlds")))
    of = {world: [c for c in cells if c.levels["world"] == world] for world in {c.levels["world"] for c in cells}}
    assert set(of) == {"main", "pictures_irrelevant", "pictures_show_kind", "no_copurchase", "all_shared"}
    for world in set(of) - {"no_copurchase"}:
        rows = {c.levels["row"]: c.method for c in of[world]}
        assert rows.items() >= {"text + image": "musicrec", "text + text": "text_text"}.items()
        assert {"tiger", "tiger_image"} <= set(rows.values())
        assert {c.levels["data_seed"] for c in of[world]} == {"w0", "w1", "w2"}
    for cell in cells:  # every cell is a valid request
        methods.resolve(cell.dataset, cell.method, cell.size, cell.overrides)


def test_the_table_holds_the_metrics_of_every_run(counted: tuple[Path, list[sweep.Cell], pd.DataFrame]) -> None:
    folder, cells, results = counted
    for cell in cells:
        rows = results[(results.world_seed == cell.levels["world_seed"]) & (results.row == cell.levels["row"])]
        metrics = runs.read_json(cell.job(folder).run_folder / "metrics.json")
        for row in rows.itertuples():
            assert row.value == metrics[f"test/{row.list}/{row.metric}"]
            assert (row.main_list, row.fingerprint) == ("main", metrics["fingerprint"])
            assert (folder / row.run / "metrics.json").is_file() and row.encoders == "none"
        assert len(rows) == sum(key.startswith("test/") for key in metrics)
    columns = [*runs.RESULTS_COLUMNS, "main_list", "encoders", "world_seed", "row"]
    assert list(results.columns) == columns and sweep.missing(cells, folder) == []


def test_the_summary_has_means_and_ranges_over_seeds(counted: tuple[Path, list[sweep.Cell], pd.DataFrame]) -> None:
    _, _, results = counted
    table = sweep.summary(results, ["world_seed", "row"])
    assert table[["dataset", "row", "runs"]].values.tolist() == [
        ["demo_tiny", "counter", 2],
        ["demo_tiny", "popularity", 2],
    ]
    main = results[(results.list == "main") & (results.row == "counter")]
    for metric in ("hr@10", "ndcg@10"):
        values = main[main.metric == metric]["value"]
        found = table.loc[0, [metric, f"{metric} least", f"{metric} most"]].tolist()
        assert found == pytest.approx([values.mean(), values.min(), values.max()])
    assert sweep.summary(results[:0], ["row"]).empty


def test_a_run_counts_as_done_where_its_data_files_are_not(tmp_path: Path) -> None:
    import shutil

    lines = [f"{user},{item},{user + item}" for user in range(8) for item in range(6)]
    (tmp_path / "bought.csv").write_text("user,item,time\n" + "\n".join(lines))
    data = {"name": "shop", "source": "table", "interactions": "bought.csv"}
    (tmp_path / "shop.yaml").write_text("\n".join(f"{key}: {value}" for key, value in data.items()))
    raw = {"datasets": [str(tmp_path / "shop.yaml")], "size": "smoke", "axes": {"row": {"p": {"method": "popularity"}}}}
    cells = list(sweep.cells(raw))
    before = sweep.ensure(cells, tmp_path / "runs")
    (tmp_path / "bought.csv").rename(tmp_path / "elsewhere.csv")
    pd.testing.assert_frame_equal(sweep.results(cells, tmp_path / "runs"), before)
    (tmp_path / "bought.csv").write_text("user,item,time\n" + "\n".join(lines[:-1]))
    assert sweep.missing(cells, tmp_path / "runs") == cells, "other data"
    shutil.rmtree(tmp_path / "runs" / "shop" / "runs")
    assert sweep.missing(cells, tmp_path / "runs") == cells


def test_the_wide_table_holds_the_same_values(counted: tuple[Path, list[sweep.Cell], pd.DataFrame]) -> None:
    _, _, results = counted
    table = sweep.wide(results)
    assert len(table) * results.metric.nunique() == len(results)
    back = table.melt([c for c in results if c not in ("metric", "value")], var_name="metric", value_name="value")
    columns = list(results.columns)
    pd.testing.assert_frame_equal(
        back[columns].sort_values(columns, ignore_index=True), results.sort_values(columns, ignore_index=True)
    )
    assert list(table["row"].unique()) == ["counter", "popularity"]


def test_contrasts_are_the_paired_differences_over_all_worlds(
    counted: tuple[Path, list[sweep.Cell], pd.DataFrame],
) -> None:
    folder, cells, results = counted
    made = sweep.contrasts(cells, COUNTERS["contrast"], folder)
    assert len(made) == 1
    row = made.iloc[0]
    wanted = results[(results.list == "main") & (results.metric == "hr@10/no_history")]
    value = wanted.set_index(["world_seed", "row"])["value"]
    apart = [value[w, "counter"] - value[w, "popularity"] for w in ("w0", "w1")]
    assert row["difference"] == pytest.approx(np.mean(apart))  # both worlds have as many shoppers
    assert (row["least"], row["most"]) == (pytest.approx(min(apart)), pytest.approx(max(apart)))
    assert row["users"] == 400 and row["cells"] == 2
    assert row["low"] < row["difference"] < row["high"] and row["low"] > 0 and row["p"] < 0.01
    assert row["row"] == "counter - popularity" and row["dataset"] == "demo_tiny"


def test_contrasts_leave_out_what_is_not_done(counted: tuple[Path, list[sweep.Cell], pd.DataFrame]) -> None:
    folder, cells, _ = counted
    lacking = list(sweep.cells({**COUNTERS, "seeds": [0, 7]}))
    pd.testing.assert_frame_equal(
        sweep.contrasts(lacking, COUNTERS["contrast"], folder), sweep.contrasts(cells, COUNTERS["contrast"], folder)
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("datasets: [demo]\naxis: {}", "unknown key axis"),
        ("datasets: [demo]\naxes: {row: {a: {}}}\ncontrast: {row: b}", "contrast row: b is no level"),
        ("datasets: [demo]\naxes: {row: {a: {}}}\nskip: [{row: [a, b]}]", "skip row: {'b'} is no level"),
        ("datasets: [demo]\nsettings: [{datset: demo, set: {}}]", "found {'datset': 'demo', 'set': {}}"),
        ("datasets: [demo]\nsettings: [{dataset: demo}]", "settings are of"),
        ("base: no_such", "no sweep 'no_such'"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(Refused, match=why):
        sweep.read(str(path))


def test_a_sweep_lies_on_its_base(tmp_path: Path) -> None:
    below, above = tmp_path / "below.yaml", tmp_path / "above.yaml"
    below.write_text("datasets: [demo]\nseeds: [0, 1]\nsettings:\n- {set: {generator: {steps: 5, batch: 7}}}\n")
    above.write_text(
        f"base: {below}\nseeds: [3]\nsettings:\n- {{set: {{generator: {{steps: 6}}}}}}\naxes: {{row: {{a: {{}}}}}}"
    )
    (cell,) = sweep.cells(sweep.read(str(above)))
    assert (cell.dataset, cell.seed, cell.levels) == ("demo", 3, {"row": "a"})
    assert cell.overrides == {"generator": {"steps": 6, "batch": 7}}


def test_axes_of_the_base_stay_and_an_axis_of_the_same_name_takes_their_place(tmp_path: Path) -> None:
    below, above = tmp_path / "below.yaml", tmp_path / "above.yaml"
    below.write_text("datasets: [demo]\naxes: {world: {a: {}, b: {}}, draw: {w0: {}}}\n")
    above.write_text(f"base: {below}\naxes: {{world: {{c: {{}}}}, row: {{r: {{}}}}}}\n")
    (cell,) = sweep.cells(sweep.read(str(above)))
    assert cell.levels == {"world": "c", "draw": "w0", "row": "r"}
    assert list(cell.levels) == ["world", "draw", "row"]


def test_every_cell_gets_what_settings_say_of_its_data_set_and_size() -> None:
    made = {
        "datasets": ["demo_tiny", "demo"],
        "size": "smoke",
        "settings": [
            {"set": {"generator": {"batch": 7}}},
            {"dataset": "demo", "set": {"generator": {"steps": 5}}},
            {"dataset": "demo", "size": "paper", "set": {"generator": {"steps": 9}}},
        ],
        "axes": {"row": {"a": None, "b": {"generator": {"batch": 8}}}},
    }
    found = {(cell.dataset, cell.levels["row"]): cell.overrides["generator"] for cell in sweep.cells(made)}
    assert found[("demo_tiny", "a")] == {"batch": 7} and found[("demo_tiny", "b")] == {"batch": 8}
    assert found[("demo", "a")] == {"batch": 7, "steps": 5} and found[("demo", "b")] == {"batch": 8, "steps": 5}


def test_a_level_may_be_one_of_some_data_sets_only() -> None:
    axes = {"row": {"a": None, "b": {"datasets": ["demo_tiny"], "method": "tiger"}}}
    found = [
        (cell.dataset, cell.levels["row"]) for cell in sweep.cells({"datasets": ["demo_tiny", "demo"], "axes": axes})
    ]
    assert found == [("demo_tiny", "a"), ("demo_tiny", "b"), ("demo", "a")]


def test_a_level_may_stand_for_the_values_of_the_size() -> None:
    made = {"datasets": ["demo"], "axes": {"row": {"codes": {"key": "tokenizer.codes", "values": "codes"}}}}
    small = [cell.overrides["tokenizer"]["codes"] for cell in sweep.cells({**made, "size": "small"})]
    assert small == [16, 32, 64, 128]
    assert [cell.levels["row"] for cell in sweep.cells({**made, "size": "paper"})][2:] == ["codes=256", "codes=512"]
    more = {"codes": {"method": "tiger", "key": "tokenizer.codes", "values": "codes"}}
    assert [cell.method for cell in sweep.cells({**made, "size": "smoke", "axes": {"row": more}})] == ["tiger", "tiger"]
    with pytest.raises(Refused, match="no sweep values 'widths'"):
        list(sweep.cells({**made, "axes": {"row": {"codes": {"key": "tokenizer.codes", "values": "widths"}}}}))


def test_a_run_is_done_where_its_feature_files_are_not_any_more(tmp_path: Path) -> None:
    """Of features.text both the file's hash and the stage's key are recorded, by different stages."""
    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).random((120, 8), np.float32))
    own = {"features": {"text": {"file": "vectors.npy", "encoder": "file"}}, "tokenizer": {"epochs": 1}}
    axes = {"row": {"tiger": {"method": "tiger", **own, "generator": {"epochs": 1}}}}
    (cell,) = sweep.cells({"datasets": ["demo_tiny"], "size": "smoke", "axes": axes})
    sweep.ensure([cell], tmp_path / "runs", str(tmp_path))
    (tmp_path / "vectors.npy").unlink()
    assert sweep.missing([cell], tmp_path / "runs", str(tmp_path)) == []
