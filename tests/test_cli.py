"""The command line: exit codes, the last line, runs that survive a kill, and nothing half done."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from musicrec_kit import cli, runs
from musicrec_kit.params import Refused
from musicrec_kit.pipeline import Job, StageFailed

# one-hot properties in the place of encoders: no weights are needed, and a run takes seconds
FAST = ["--set", "features.text.encoder=properties", "--set", "features.image.encoder=properties"]
SMOKE = ["run", "demo_tiny", "--size", "smoke", "--no-notebooks", *FAST]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of runs with one finished smoke run."""
    folder = tmp_path_factory.mktemp("runs")
    assert cli.main([*SMOKE, "--runs", str(folder)]) == 0
    return folder


def _metrics(folder: Path) -> Path:
    return next(folder.glob("*/runs/*/*/*/metrics.json"))


def test_a_run_leaves_the_contracts_files(finished: Path) -> None:
    run = _metrics(finished).parent
    for name in ("settings.yaml", "versions.json", "stages.json", "metrics.json", "timings.json"):
        assert (run / name).is_file()
    ranked = runs.read_table(run / "rankings.parquet")
    assert list(ranked.columns) == ["user", "list", "split", "rank", "item", "score"]
    users = runs.read_table(run / "per_user.parquet")
    assert list(users.columns) == ["user", "list", "split", "target", "rank", "rank_no_history", "cold"]
    metrics = runs.read_json(run / "metrics.json")
    assert metrics["main_list"] == "merged"
    for name in ("text", "image", "joint", "merged", "merged_lse", "popularity", "markov"):
        for split in ("valid", "test"):
            assert 0 <= metrics[f"{split}/{name}/ndcg@10"] <= metrics[f"{split}/{name}/hr@10"] <= 1
            # without the history's places a target of a fixed scorer can only rise; beams may lose theirs
            if name in ("popularity", "markov"):
                assert metrics[f"{split}/{name}/hr@10"] <= metrics[f"{split}/{name}/hr@10/no_history"]
    assert set(runs.load_run(run).stages) >= {"data", "features.text", "features.image", "cf", "tokenizer", "ids"}


def test_the_metrics_are_those_of_the_rankings(finished: Path) -> None:
    run = _metrics(finished).parent
    ranked, users = runs.read_table(run / "rankings.parquet"), runs.read_table(run / "per_user.parquet")
    hits = users[(users.list == "merged") & (users.split == "test")]
    listed = ranked[(ranked.list == "merged") & (ranked.split == "test") & (ranked["rank"] <= 10)]
    pairs = set(zip(listed.user, listed.item, strict=True))
    found = sum((u, t) in pairs for u, t in zip(hits.user, hits.target, strict=True)) / len(hits)
    assert runs.read_json(run / "metrics.json")["test/merged/hr@10"] == pytest.approx(found)


def test_again_is_quick_reuses_everything_and_prints_one_json_line(
    finished: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    before = _metrics(finished).read_bytes()
    capsys.readouterr()
    with caplog.at_level("INFO"):
        assert cli.main([*SMOKE, "--runs", str(finished)]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    keys = ["run", "dataset", "method", "variant", "size", "seed", "main_list"]
    assert list(line) == [*keys, "test/merged/hr@10", "test/merged/ndcg@10", "seconds"]
    assert not [r for r in caplog.records if ": made " in r.getMessage()]
    assert _metrics(finished).read_bytes() == before


def test_an_ablation_shares_the_stages_it_does_not_touch(finished: Path) -> None:
    stages = finished / "demo_tiny" / "stages"
    before = {stage.name: len(list(stage.glob("*/stage.json"))) for stage in stages.iterdir()}
    assert (
        cli.main([*SMOKE, "--runs", str(finished), "--set", "generator.tasks=[next]", "--set", "generator.epochs=1"])
        == 0
    )
    after = {stage.name: len(list(stage.glob("*/stage.json"))) for stage in stages.iterdir()}
    grown = {name for name in after if after[name] > before[name]}
    assert grown == {"generator", "rank", "evaluate"}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--set", "tokenizer.codebok_size=9"], ["tokenizer.codebok_size", "tokenizer.codes"]),
        (["--set", "tokenizer.codes=500"], ["tokenizer.codes=500", "120 items", "120 or fewer"]),
        (["--method", "musicrecc"], ["musicrecc", "did you mean 'musicrec'"]),
        (["--until", "tokeniser"], ["--until tokeniser", "tokenizer"]),
        (["--set", "features.text.file=nowhere.npy"], ["features.text", "nowhere.npy", "--data-root"]),
        (["--device", "tpu"], ["--device tpu", "cpu"]),
        (["--data-root", "nowhere"], ["--data-root nowhere"]),
    ],
)
def test_nonsense_is_refused_with_2_and_leaves_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], words: list[str]
) -> None:
    assert cli.main([*SMOKE, "--runs", str(tmp_path), *more]) == cli.REFUSED
    message = capsys.readouterr().err
    for word in words:
        assert word in message
    assert not list(tmp_path.glob("*/runs"))


def test_a_stage_that_dies_is_named_and_exits_with_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from musicrec_kit import ids

    def die(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(ids, "make_ids", die)
    assert cli.main([*SMOKE, "--runs", str(tmp_path)]) == cli.FAILED
    assert "stage ids failed: OSError: disk full" in capsys.readouterr().err
    monkeypatch.undo()
    assert cli.main([*SMOKE, "--runs", str(tmp_path), "--until", "ids"]) == 0


def _command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "musicrec_kit", *SMOKE, "--runs", str(folder), "--threads", "1"]


@pytest.mark.slow
def test_three_kills_do_not_change_the_metrics(tmp_path: Path) -> None:
    start = time.perf_counter()
    subprocess.run(_command(tmp_path / "whole"), check=True, capture_output=True)
    whole = time.perf_counter() - start
    moments = random.Random(0)
    for _ in range(3):
        process = subprocess.Popen(_command(tmp_path / "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=whole * moments.uniform(0.3, 0.9))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(_command(tmp_path / "killed"), check=True, capture_output=True, text=True)
    assert json.loads(done.stdout.splitlines()[-1])["main_list"] == "merged"
    assert _metrics(tmp_path / "killed").read_bytes() == _metrics(tmp_path / "whole").read_bytes()
    assert not list((tmp_path / "killed").rglob("*.part"))


def test_sigterm_exits_with_143(tmp_path: Path) -> None:
    process = subprocess.Popen(_command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(4)
    process.terminate()
    _, message = process.communicate(timeout=60)
    assert process.returncode in (143, -signal.SIGTERM), message
    assert not list(tmp_path.glob("*/runs/*/*/*/metrics.json"))


def test_recommend_gives_titles_and_never_the_history(finished: Path) -> None:
    from musicrec_kit.recommender import Recommender

    recommender = Recommender.load(_metrics(finished).parent)
    raw = recommender.items["raw_id"].tolist()
    histories = [raw[:3], raw[5:6], raw[:25]]
    table = recommender.recommend(histories, k=7)
    assert table.groupby("history").size().tolist() == [7, 7, 7]
    for number, history in enumerate(histories):
        assert not set(history) & set(table.raw_id[table.history == number])
    titles = dict(zip(recommender.items.raw_id, recommender.items.title, strict=True))
    assert [titles[r] for r in table.raw_id] == table.title.tolist()
    alone = recommender.recommend([histories[1]], k=7)
    assert alone.raw_id.tolist() == table.raw_id[table.history == 1].tolist()


def test_recommend_refuses_what_it_does_not_know(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(_metrics(finished).parent)
    assert cli.main(["recommend", run, "--history", "itm-001"]) == cli.REFUSED
    assert "did you mean" in capsys.readouterr().err
    assert cli.main(["recommend", run, "--history", "item-001", "--k", "99"]) == cli.REFUSED
    assert cli.main(["recommend", "no/such/run", "--history", "x", "--runs", str(finished)]) == cli.REFUSED


def test_a_new_item_gets_an_id_and_is_recommended_without_training(finished: Path) -> None:
    from musicrec_kit.features import Features
    from musicrec_kit.recommender import Recommender

    recommender = Recommender.load(_metrics(finished).parent)
    features = {m: Features.load(recommender.run.stage(f"features.{m}"), m).matrix for m in ("text", "image")}
    before = recommender.recommend([[raw] for raw in recommender.items.raw_id[:60]], k=20, list_name="text")
    twin = int(recommender.items.raw_id.tolist().index(before.raw_id.mode()[0]))  # an item that the lists reach
    new = recommender.items.iloc[[twin]].assign(raw_id="brand-new", title="A new thing")
    weights = [t.clone() for t in recommender.generator.model.state_dict().values()]
    made = recommender.add_items(new, {m: matrix[[twin]] for m, matrix in features.items()})
    assert made.raw_id.tolist() == ["brand-new"]
    assert made.text[0] != recommender.ids_of(twin)["text"], "two items share an ID"
    assert made.text[0].split("><")[:3] == recommender.ids_of(twin)["text"].split("><")[:3], "a twin shares its prefix"
    assert all((a == b).all() for a, b in zip(weights, recommender.generator.model.state_dict().values(), strict=True))
    everywhere = recommender.recommend([[raw] for raw in recommender.items.raw_id[:60]], k=20, list_name="text")
    assert "brand-new" in set(everywhere.raw_id)
    assert len(recommender.recommend([["brand-new"]], k=5)) == 5


def test_new_items_of_a_leaf_get_the_next_indices(tmp_path: Path) -> None:
    import numpy as np

    from musicrec_kit.params import Refused
    from musicrec_kit.pipeline import Job
    from musicrec_kit.recommender import Recommender

    # visual tokens on top: the new items' pictures are read in histories
    noise = {modality: {"encoder": "noise", "dim": 8} for modality in ("text", "image")}
    quick = {"generator": {"epochs": 0, "visual_tokens": 2}, "features": noise}
    job = Job("demo_tiny", "hc_indexer", "smoke", 0, tmp_path, overrides=quick)
    job.build()
    assert job.keyed_stages()[1:3] == ["features.text", "features.image"]
    recommender, ids = Recommender.load(job.run_folder), job.ids
    path, width = ids.views["text"], int(ids.suffix["text"].max()) + 1
    size = np.array([(path == row).all(axis=1).sum() for row in path])
    twin, full = int(size.argmin()), int(size.argmax())
    assert size[twin] + 1 < width == size[full]
    rows, shown = (job.features[modality].matrix for modality in ("text", "image"))
    new = recommender.items.iloc[[twin, twin]].assign(raw_id=["new-0", "new-1"])
    made = recommender.add_items(new, {"text": rows[[twin, twin]], "image": shown[[twin, twin]]})
    way = recommender.ids_of(twin)["text"].rsplit("<", 1)[0]
    assert made.text.tolist() == [f"{way}<dup:text.{size[twin] + i}>" for i in (0, 1)]
    table = recommender.recommend([["new-0"], [recommender.items.raw_id[0]]], k=20)
    assert len(table) == 40
    marks = recommender.generator.model.marks
    assert marks.present.tolist() == [True] * 122
    assert np.array_equal(marks.vectors[-1].numpy(), shown[twin])
    another = recommender.items.iloc[[full]].assign(raw_id="one-too-many")
    with pytest.raises(Refused, match="none is left"):
        recommender.add_items(another, {"text": rows[[full]]})


def test_clusters_of_behaviour_recommend_to_strangers_and_refuse_new_items(tmp_path: Path) -> None:
    from musicrec_kit.params import Refused
    from musicrec_kit.pipeline import Job
    from musicrec_kit.recommender import Recommender

    job = Job("demo_tiny", "p5_cid", "smoke", 0, tmp_path, overrides={"generator": {"epochs": 1}})
    job.build()
    assert "features" not in job.stages and job.keyed_stages()[:2] == ["data", "tokenizer"]
    assert runs.encoders(runs.load_run(job.run_folder)) == "none (IDs from interactions)"
    recommender = Recommender.load(job.run_folder)
    raw = recommender.items.raw_id.tolist()
    both = recommender.recommend([raw[:3], raw[5:6]], k=20)
    alone = recommender.recommend([raw[5:6]], k=20)
    assert len(both) == 40 and both.raw_id[20:].tolist() == alone.raw_id.tolist(), "a stranger is no numbered user"
    with pytest.raises(Refused, match="a new item has none"):
        recommender.add_items(recommender.items.iloc[[0]].assign(raw_id="new"), {})


@pytest.mark.parametrize("method", ["sasrec", "bert4rec"])
def test_a_sequential_run_recommends_what_its_list_says(method: str, tmp_path: Path) -> None:
    from musicrec_kit.params import Refused
    from musicrec_kit.pipeline import Job
    from musicrec_kit.recommender import Recommender

    job = Job("demo_tiny", method, "smoke", 0, tmp_path, overrides={"sequential": {"epochs": 2}})
    job.build()
    recommender, sequences = Recommender.load(job.run_folder), job.sequences
    raw = recommender.items.raw_id.to_numpy()
    histories = [raw[sequences.items[sequences.offsets[u] : sequences.offsets[u + 1] - 1]].tolist() for u in range(4)]
    table = recommender.recommend(histories, k=10)
    expected = raw[job.rankings.lists["test", "main/no_history"].items[:4, :10].ravel()]
    assert table.raw_id.tolist() == expected.tolist()
    with pytest.raises(Refused, match="has no semantic IDs"):
        recommender.add_items(recommender.items.iloc[[0]].assign(raw_id="new"), {})


def test_list_results_compare_doctor_and_clean(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--runs", str(finished)]
    assert cli.main(["list", *where]) == 0
    names = capsys.readouterr().out.split()
    assert len(names) >= 1
    assert cli.main(["results", *where]) == 0
    assert "merged" in capsys.readouterr().out
    assert cli.main(["compare", names[0], names[-1], *where]) == 0
    assert cli.main(["doctor", "demo_tiny", "--size", "smoke", *where]) == 0
    assert "users" in capsys.readouterr().out
    assert cli.main(["clean", *where]) == 0
    assert _metrics(finished).is_file()


def test_clean_leaves_what_is_being_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    making, left, grid = (tmp_path / name for name in ("d/stages/ids/a", "d/stages/ids/b", ".grid/s"))
    for folder in (making, left, grid):
        folder.mkdir(parents=True)
    where = ["clean", "--yes", "--runs", str(tmp_path)]
    with runs.lock(grid / "lock"):
        assert cli.main(where) == 2 and left.is_dir()
    assert "a grid is running" in capsys.readouterr().err
    with runs.lock(making.parent / ".a.lock"):
        assert cli.main(where) == 0
    assert making.is_dir() and not left.exists()
    assert "it is being made" in capsys.readouterr().out


def test_what_a_notebook_refuses_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from papermill import PapermillExecutionError

    for ename, evalue, kind, says in (
        ("Refused", "no such folder", Refused, "no such folder"),
        ("StageFailed", "stage ids failed: OSError: full", StageFailed, "stage ids failed"),
        ("ValueError", "x", StageFailed, "stage notebooks failed"),
    ):
        error = PapermillExecutionError(3, 2, "code", ename, evalue, ["line"])
        monkeypatch.setattr("musicrec_kit.notebooks.execute_all", lambda *_, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(kind, match=says):
            cli._run_notebooks(Job("demo_tiny", "tiger", "smoke"), None)


def test_a_dry_run_builds_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "instruments", "--size", "paper", "--dry-run", "--runs", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for stage in ("data", "features.text", "cf", "tokenizer", "ids", "generator", "rank", "evaluate", "total"):
        assert stage in printed
    assert not list(tmp_path.iterdir())
