"""Two processes that work as one: the same curve, every user once, one writer, and what happens when one dies."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from musicrec_kit import cli, distributed, runs
from musicrec_kit.pipeline import Job

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
OVERRIDES = {"generator": {"dropout": 0.0}}  # masks are drawn by each process


def job(folder: Path) -> Job:
    return Job("demo_tiny", "musicrec", "smoke", 0, folder, overrides=OVERRIDES, device="cpu")


def musicrec(folder: Path, *more: str, start: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    words = [*(start or [sys.executable]), "-m", "musicrec_kit", *job(folder).arguments(), "--device", "cpu", *more]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Job:
    made = job(tmp_path_factory.mktemp("alone"))
    made.build()
    return made


@pytest.fixture(scope="module")
def two(alone: Job, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Return the same run by two processes, which find what neither the T5 nor text features need."""
    folder = tmp_path_factory.mktemp("two")
    for stage in ("data", "features.image", "cf", "tokenizer", "ids"):
        shutil.copytree(alone.stage_folder(stage), job(folder).stage_folder(stage))
    done = musicrec(folder, start=TORCHRUN)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('{"run"') == 1  # one of them talks
    assert json.loads(done.stdout.strip().splitlines()[-1])["main_list"] == "merged"
    return job(folder)


def curve(made: Job) -> pd.DataFrame:
    path = made.stage_folder("generator") / "metrics.jsonl"
    return pd.DataFrame([json.loads(line) for line in path.read_text().splitlines()])


def test_the_loss_curve_is_that_of_one_process(alone: Job, two: Job) -> None:
    expected, found = (curve(made).drop(columns="seconds") for made in (alone, two))
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-9)
    assert expected["loss"].iloc[-1] < 0.8 * expected["loss"].iloc[0]  # something was learnt


def test_features_are_those_of_one_process(alone: Job, two: Job) -> None:
    expected, found = alone.features["text"], two.features["text"]
    np.testing.assert_allclose(found.matrix, expected.matrix, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found.present, expected.present)


def test_every_user_is_ranked_once_and_alike(alone: Job, two: Job) -> None:
    for (split, name), ranked in two.rankings.lists.items():
        np.testing.assert_array_equal(two.rankings.users[split], alone.rankings.users[split])
        assert len(ranked.items) == len(two.rankings.users[split])
        expected = alone.rankings.lists[split, name]
        # weights differ by rounding, which may turn a few places around
        assert (ranked.target_rank == expected.target_rank).mean() > 0.97
        assert (ranked.items[:, :10] == expected.items[:, :10]).mean() > 0.97


def test_one_process_writes(two: Job) -> None:
    folder = two.runs_dir / "demo_tiny"
    for stage in two.keyed_stages():
        assert two.is_built(stage)
        files = runs.read_json(two.stage_folder(stage) / "stage.json")["files"]
        assert files == {name: runs.sha256_file(two.stage_folder(stage) / name) for name in files}
    assert not list(folder.rglob("*.part"))
    assert (two.run_folder / "metrics.json").is_file()


def test_a_run_starts_processes_for_the_stages_that_they_share(alone: Job, tmp_path: Path) -> None:
    for stage in alone.keyed_stages():
        if stage not in ("generator", "rank", "evaluate"):
            shutil.copytree(alone.stage_folder(stage), job(tmp_path).stage_folder(stage))
    done = musicrec(tmp_path, "--processes", "2", "--until", "generator")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "generator: reused" in done.stderr  # by the process that asked for it
    pd.testing.assert_frame_equal(
        curve(job(tmp_path)).drop(columns="seconds"), curve(alone).drop(columns="seconds"), rtol=1e-4, atol=1e-9
    )


SCRIPT = """
import json, sys
from pathlib import Path
import torch
from torch import nn
from musicrec_kit import distributed, seeds, training
from musicrec_kit.params import Refused

torch.set_num_threads(1)
folder, epochs, deadly = Path(sys.argv[1]), int(sys.argv[2]), len(sys.argv) > 3
with seeds.torch_seed(0, "model"):
    model = nn.Linear(3, 1)
x = torch.randn(11, 3, generator=torch.Generator().manual_seed(1))
batches = [x[:1], x[1:6], x[6:]]  # one row is of the first process, the other has none

def own(batch):
    rows = batch[distributed.own_rows(len(batch))]
    return [(rows, len(rows) / len(batch))] if len(rows) else []

def loss(rows):
    if deadly and distributed.number() == 1 and epochs > 2:
        raise MemoryError("too much")
    return (model(rows) - rows.sum(dim=1, keepdim=True)).square().mean(), {}

training.CHECKPOINT_SECONDS = 0.0
result = training.fit(
    model, lambda epoch: batches, loss, lr=0.1, weight_decay=0.0, epochs=epochs, steps=30, schedule="constant",
    folder=folder if distributed.is_first() else None, split=own, shared=True,
)
if distributed.is_first():
    found = {"weight": model.weight.tolist(), "losses": [line["loss"] for line in result.log]}
    (folder / "found.json").write_text(json.dumps(found))
"""


def test_a_training_goes_on_in_two_processes_after_one_has_died(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    (tmp_path / "one").mkdir()
    (tmp_path / "both").mkdir()
    run = lambda start, *words: subprocess.run(
        [*start, str(script), *words], capture_output=True, text=True, check=False
    )
    assert run([sys.executable], str(tmp_path / "one"), "4").returncode == 0
    for words, code in ((("2",), 0), (("4", "deadly"), 1), (("4",), 0)):
        done = run(TORCHRUN, str(tmp_path / "both"), *words)
        assert done.returncode == code, done.stderr[-3000:]
        assert code == 0 or "MemoryError: too much" in done.stderr
    one, both = (json.loads((tmp_path / name / "found.json").read_text()) for name in ("one", "both"))
    assert len(both["losses"]) == 4
    np.testing.assert_allclose(both["losses"], one["losses"], rtol=1e-5)
    np.testing.assert_allclose(both["weight"], one["weight"], rtol=1e-5)


def test_one_process_needs_no_group() -> None:
    assert (distributed.size(), distributed.number(), distributed.is_first(), distributed.wanted()) == (1, 0, True, 1)
    assert distributed.broadcast("x") == "x"
    assert distributed.gather(3) == [3]
    assert distributed.by_all(lambda build: build(Path("f")) or 7, lambda folder: None) == 7


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_every_row_is_of_one_process(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", str(size))
    rows: list[int] = []
    turns: list[int] = []
    for number in range(size):
        monkeypatch.setenv("RANK", str(number))
        rows += range(5)[distributed.own_rows(5)]
        turns += distributed.own_parts(list(range(5)))
    assert rows == list(range(5))
    assert sorted(turns) == list(range(5))


def test_torchrun_with_notebooks_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "demo_tiny", "--processes", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("WORLD_SIZE", "2"), ("RANK", "0")):
        monkeypatch.setenv(name, value)
    assert cli.main(["run", "demo_tiny", "--size", "smoke"]) == 2
    assert "--no-notebooks" in capsys.readouterr().err
