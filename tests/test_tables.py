"""Tables over a run folder written by hand, so that every number is known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from musicrec_kit import methods, runs, tables
from musicrec_kit.params import Refused

# ranks of the test target: list -> (plain, no_history), four users
RANKS = {
    "merged": ([1, 6, 0, 3], [1, 5, 0, 2]),
    "text": ([0, 0, 0, 10], [0, 0, 0, 9]),
    "markov": ([2, 0, 0, 0], [1, 0, 0, 0]),
    "popularity": ([0, 0, 0, 11], [0, 0, 20, 10]),
}
CEILINGS = {"both": {"hr@10": 0.9}, "text": {"hr@10": 0.5}, "image": {"hr@10": 0.4}, "random": {"hr@10": 0.1}}


def make_run(root: Path, ranks: dict, seed: int = 0, fingerprint: str = "f", size: str = "smoke") -> runs.Run:
    """Write the parts of a run that tables read."""
    folder = runs.run_folder(root, "toy", "musicrec", "", size, seed)
    rows = [
        (user, name, split, 0, plain[user], new[user], False)
        for name, (plain, new) in ranks.items()
        for split in ("valid", "test")
        for user in range(len(plain))
    ]
    columns = ["user", "list", "split", "target", "rank", "rank_no_history", "cold"]
    frame = pd.DataFrame(rows, columns=columns)
    frame.loc[frame["split"] == "valid", ["rank", "rank_no_history"]] = 1
    runs.write_table(folder / "per_user.parquet", frame)
    runs.write_text(folder / "settings.yaml", f"request: {{seed: {seed}}}\ntokenizer: {{codes: 16, levels: [1, 2]}}\n")
    runs.write_json(folder / "stages.json", {"data": "d", "features.text": "t", "features.image": "i"})
    data = runs.stage_folder(root, "toy", "data", "d")
    runs.write_json(data / "manifest.json", {"about": {"ceilings": CEILINGS}})
    for modality, key in (("text", "t"), ("image", "i")):
        path = runs.stage_folder(root, "toy", "features", key) / f"{modality}.safetensors"
        runs.write_tensors(path, {"features": np.zeros((1, 1), np.float32)}, {"encoder": f"tiny {modality} net"})
    runs.write_json(folder / "metrics.json", {"main_list": "merged", "fingerprint": fingerprint})
    return runs.load_run(folder)


@pytest.fixture
def run(tmp_path: Path) -> runs.Run:
    return make_run(tmp_path, RANKS)


def test_run_table_has_every_list_and_both_protocols(run: runs.Run) -> None:
    table = tables.run_table(run.folder).set_index("list")
    assert table.index.tolist() == ["merged", "text", "markov", "popularity"]
    assert table["HR@5"].tolist() == [0.5, 0, 0.25, 0]
    assert table["HR@10"].tolist() == [0.75, 0.25, 0.25, 0]
    assert table["HR@5 new"].tolist() == [0.75, 0, 0.25, 0]
    # ranks 1, 6 and 3: 1 + 1 / log2(7) + 1 / 2, over four users
    assert table.loc["merged", "NDCG@10"] == pytest.approx((1 + 1 / np.log2(7) + 0.5) / 4)
    assert table.loc["merged", "NDCG@5"] == pytest.approx(1.5 / 4)
    assert table["encoders"].unique().tolist() == ["text: tiny text net, image: tiny image net"]


@pytest.mark.parametrize(
    ("settings", "stages", "words"),
    [
        ("ids: {source: numbers}", ["ids"], "none (IDs are numbers)"),
        ("ids: {source: tokenizer}", ["tokenizer", "ids"], "none (IDs from interactions)"),
        ("ids: {source: published}", ["ids"], "published IDs"),
        ("ids: {source: numbers}\ngenerator: {frozen: true}", ["ids", "generator"], ", T5 from scratch"),
        ("generator: {frozen: true, pretrained: t5}", ["generator"], "none"),
        ("generator: {frozen: true}", [], "none"),
    ],
)
def test_encoders_say_what_ids_are_made_of_and_that_nothing_was_frozen(
    tmp_path: Path, settings: str, stages: list[str], words: str
) -> None:
    folder = runs.run_folder(tmp_path, "toy", "row", "", "smoke", 0)
    runs.write_text(folder / "settings.yaml", settings)
    run = runs.Run("toy", "row", "", "smoke", 0, folder, dict.fromkeys(stages, "key"))
    assert runs.encoders(run).endswith(words)
    assert ("scratch" in runs.encoders(run)) == ("scratch" in words)


def test_run_table_gives_the_share_of_every_ceiling(run: runs.Run) -> None:
    table = tables.run_table(run.folder).set_index("list")
    assert table["of both"].tolist() == pytest.approx([0.75 / 0.9, 0.25 / 0.9, 0.25 / 0.9, 0.25 / 0.9])
    assert table.loc["text", "of text"] == pytest.approx(0.5)
    assert "of random" not in table


def test_validation_is_another_table(run: runs.Run) -> None:
    assert (tables.run_table(run.folder, "valid")["HR@5"] == 1).all()


def test_the_interval_is_that_of_wilson() -> None:
    from scipy.stats import binomtest

    for hits, n in ((0, 50), (7, 50), (50, 50), (130, 601)):
        known = binomtest(hits, n).proportion_ci(method="wilson")
        assert tables.wilson(hits / n, n) == pytest.approx((known.low, known.high), abs=1e-6)
    assert tables.wilson(0.0, 0) == (0.0, 1.0)


def test_show_prints_shares_intervals_and_the_encoders_once(run: runs.Run) -> None:
    text = tables.show(tables.run_table(run.folder))
    assert ".7500" in text and "HR@10 95%" in text and "83%" in text
    assert text.count("tiny text net") == 1
    assert max(len(line) for line in text.splitlines()) <= 110
    assert text.count("popularity") == len([b for b in text.split("\n\n") if "list" in b]), "every block names its rows"
    assert tables.show(pd.DataFrame({"a": []})) == "(empty table: a)"


def test_levels_are_read_from_one() -> None:
    assert tables.shown(pd.DataFrame({"level": [0, 1], "used": [3, 4]})).values.tolist() == [["1", "3"], ["2", "4"]]


def test_latex_marks_the_best_and_the_second(run: runs.Run) -> None:
    frame = pd.DataFrame({"method": ["a_b", "c", "d"], "HR@10": [0.1, 0.3, 0.2], "HR@10 low": 0.0, "HR@10 high": 1.0})
    text = tables.to_latex(frame, ["HR@10"], caption="50 % more")
    assert r"c & \textbf{.3000} & .0000 to 1.0000 \\" in text
    assert r"d & \underline{.2000}" in text and r"a\_b & .1000" in text and r"50 \% more" in text


def test_results_wide_has_one_row_per_run_and_list() -> None:
    common = {"dataset": "toy", "method": "m", "variant": "", "size": "smoke", "seed": 0}
    rows = [
        {**common, "list": name, "metric": metric, "value": value}
        for name in ("text", "merged")
        for metric, value in (("test/hr@10", 0.1), ("test/ndcg@10", 0.05), ("valid/hr@10", 0.2))
    ]
    wide = tables.results_wide(pd.DataFrame(rows), ["test/hr@10", "test/ndcg@10"])
    assert wide["list"].tolist() == ["text", "merged"]
    assert wide.columns.tolist()[-2:] == ["test/hr@10", "test/ndcg@10"]
    assert wide["test/ndcg@10"].tolist() == [0.05, 0.05]


def test_differing_settings_names_what_differs(tmp_path: Path) -> None:
    first, second = make_run(tmp_path, RANKS), make_run(tmp_path, RANKS, seed=3)
    table = tables.differing_settings(first, second)
    assert table.values.tolist() == [["request.seed", "0", "3"]]
    assert table.columns.tolist() == ["setting", "seed0", "seed3"]


def test_a_setting_that_an_older_run_does_not_know_has_its_default(tmp_path: Path) -> None:
    first, second = make_run(tmp_path, RANKS), make_run(tmp_path, RANKS, seed=3)
    for run, told in ((first, {}), (second, {"rank": {"beam": 20, "score": "ours"}})):
        path = run.folder / "settings.yaml"
        path.write_text(yaml.safe_dump(methods.read_yaml(path) | told))
    told = tables.differing_settings(first, second).values.tolist()
    assert told == [["rank.score", "lineage", "ours"], ["request.seed", "0", "3"]]


def test_paired_compares_users(tmp_path: Path) -> None:
    first = make_run(tmp_path, {"merged": ([1] * 30 + [0] * 10, [1] * 40)})
    second = make_run(tmp_path, {"merged": ([1] * 20 + [0] * 20, [1] * 40)}, seed=1)
    table = tables.paired(first, second).set_index("metric")
    row = table.loc["HR@10"]
    assert (row["seed0"], row["seed1"], row["difference"]) == (0.75, 0.5, 0.25)
    assert row["difference low"] > 0.1 and row["difference high"] <= 0.4 and row["p"] < 0.01
    assert table.loc["HR@10 new", "difference"] == 0


def test_runs_of_different_data_are_not_paired(tmp_path: Path) -> None:
    first, second = make_run(tmp_path, RANKS), make_run(tmp_path, RANKS, seed=1, fingerprint="g")
    with pytest.raises(Refused, match="different data"):
        tables.paired(first, second)


def test_training_logs_of_several_parts_become_one_table(tmp_path: Path) -> None:
    runs.write_text(tmp_path / "text" / "metrics.jsonl", '{"epoch": 0, "loss": 2.0}\n{"epoch": 1, "loss": 1.0}\n')
    runs.write_text(tmp_path / "image" / "metrics.jsonl", '{"epoch": 0, "loss": 3.0, "valid": 0.5}\n')
    log = tables.training_log(tmp_path)
    assert log["part"].tolist() == ["image", "text", "text"] and log["loss"].tolist() == [3, 2, 1]
    assert len(tables.training_log(tmp_path / "text" / "none")) == 0
