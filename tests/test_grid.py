"""The grid: what is shared runs once, what is done is skipped, a kill or a bad cell costs no more than it must."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from musicrec_kit import cli, grid, grid_tasks, notebooks, runs, sweep
from musicrec_kit.params import Refused
from musicrec_kit.pipeline import Job

# one-hot properties in the place of encoders, and next to no training: a run takes seconds
QUICK: dict[str, Any] = {
    "features": {"text": {"encoder": "properties"}, "image": {"encoder": "properties"}},
    "cf": {"epochs": 1},
    "tokenizer": {"epochs": 1},
    "generator": {"steps": 2},
    "rank": {"beam": 20},
}
ROWS: dict[str, Any] = {
    "counter": {"method": "markov"},
    "popularity": {"method": "popularity"},
    "the same again": {"method": "popularity"},
    "tiger": {"method": "tiger"},
    "tiger, slower": {"method": "tiger", "generator": {"lr": 0.0001}},
}


def _sweep(path: Path, rows: dict[str, Any]) -> Path:
    value = {"datasets": ["demo_tiny"], "size": "smoke", "settings": [{"set": QUICK}], "axes": {"row": rows}}
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    return path


def _grid(sweep_file: Path, folder: Path, *more: str) -> int:
    return cli.main(["grid", str(sweep_file), "--runs", str(folder), "--jobs", "1", "--threads", "1", *more])


def _cells(sweep_file: Path) -> list[sweep.Cell]:
    return list(sweep.cells(sweep.read(str(sweep_file))))


def _times(folder: Path) -> dict[str, int]:
    """Return stage/key -> when it was complete."""
    found = folder.glob("*/stages/*/*/stage.json")
    return {f"{f.parts[-3]}/{f.parts[-2]}": f.stat().st_mtime_ns for f in found}


# --- runs that happen ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, int]]:
    """Return a sweep's file, its runs, made by a grid that was killed and started again, and what the kill left."""
    folder = tmp_path_factory.mktemp("grid")
    broken = folder / "vectors.npy"
    broken.write_text("not a matrix")
    bad = {"method": "tiger_image", "features": {"image": {"encoder": "file", "file": str(broken)}}}
    file, runs_dir = _sweep(folder / "few.yaml", {"bad": bad, **ROWS}), folder / "runs"
    words = ["grid", str(file), "--runs", str(runs_dir), "--jobs", "1", "--threads", "1"]
    with (folder / "err").open("w") as err:
        process = subprocess.Popen([sys.executable, "-m", "musicrec_kit", *words], stdout=err, stderr=err)
        while process.poll() is None and not list(runs_dir.glob("*/stages/tokenizer/*/stage.json")):
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = _times(runs_dir)
    assert left, (folder / "err").read_text()
    assert not list(runs_dir.glob("*/runs/tiger*/*/*/metrics.json")), "it was killed before the end"
    assert _grid(file, runs_dir) == cli.FAILED
    return file, runs_dir, left


def test_a_kill_costs_the_job_in_hand_only(killed: tuple[Path, Path, dict[str, int]]) -> None:
    _, folder, left = killed
    now = _times(folder)
    assert {key: now[key] for key in left} == left
    assert len(now) > len(left)


def test_what_runs_share_is_made_once(killed: tuple[Path, Path, dict[str, int]]) -> None:
    _, folder, _ = killed
    made: dict[str, int] = {}
    for stage in _times(folder):
        made[stage.split("/")[0]] = made.get(stage.split("/")[0], 0) + 1
    assert made == {"data": 1, "features": 1, "tokenizer": 1, "ids": 1, "generator": 2, "rank": 4, "evaluate": 4}
    logs = "\n".join(path.read_text() for path in (folder / ".grid" / "few" / "logs").iterdir())
    assert "waiting for another process" not in logs


def test_a_failed_cell_is_named_and_the_others_are_done(
    killed: tuple[Path, Path, dict[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder, _ = killed
    assert _grid(file, folder) == cli.FAILED
    printed = capsys.readouterr()
    table = runs.pd.read_csv(folder / ".grid" / "few" / "summary.csv").fillna("").set_index("row")
    assert table["state"].to_dict() == {"bad": "failed", **dict.fromkeys(ROWS, "done")}
    assert table.loc["popularity", "run"] == table.loc["the same again", "run"]
    said = [line for line in printed.err.splitlines() if line.startswith("failed: ")]
    assert len(said) == 1 and table.loc["bad", "run"] in said[0] and table.loc["bad", "error"] in said[0]
    log = (folder / table.loc["bad", "log"]).read_text()
    assert log.startswith("$ musicrec run demo_tiny --method tiger_image")
    assert table.loc["bad", "error"] in log.splitlines()[-1] and "vectors.npy" in table.loc["bad", "error"]
    assert "the same again" in printed.out and "hr@10" in printed.out and "ndcg@10" in printed.out
    everything = runs.read_table(folder / "results.parquet")
    assert list(everything.columns) == list(runs.RESULTS_COLUMNS)
    assert everything["run"].nunique() == 4


def test_nothing_is_started_when_all_is_done(killed: tuple[Path, Path, dict[str, int]], tmp_path: Path) -> None:
    _, folder, _ = killed
    words = ["grid", str(_sweep(tmp_path / "good.yaml", ROWS)), "--runs", str(folder), "--figures", str(tmp_path)]
    code = (
        "import subprocess, sys; from musicrec_kit import cli; subprocess.Popen = None; "
        f"code = cli.main({words}); assert 'torch' not in sys.modules; sys.exit(code)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    table = runs.pd.read_csv(tmp_path / "good.csv")
    assert set(table["row"]) == set(ROWS) and {"ceiling", "hr@10/no_history", "encoders"} <= set(table.columns)
    assert not (folder / ".grid" / "good").exists()


def test_a_changed_field_reruns_what_depends_on_it(killed: tuple[Path, Path, dict[str, int]], tmp_path: Path) -> None:
    _, folder, _ = killed
    before = _times(folder)
    fewer = {**ROWS, "tiger": {"method": "tiger", "ids": {"collisions": "suffix"}}}
    assert _grid(_sweep(tmp_path / "fewer.yaml", fewer), folder) == 0
    after = _times(folder)
    assert {key: after[key] for key in before} == before
    assert sorted(key.split("/")[0] for key in set(after) - set(before)) == ["evaluate", "generator", "ids", "rank"]


def test_a_run_of_other_stages_is_not_done(
    killed: tuple[Path, Path, dict[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from musicrec_kit import plan

    file, folder, _ = killed
    todo = _cells(file)
    assert [cell.levels["row"] for cell in sweep.missing(todo, folder)] == ["bad"]
    monkeypatch.setitem(plan.VERSIONS, "generator", 99)
    assert [cell.levels["row"] for cell in sweep.missing(todo, folder)] == ["bad", "tiger", "tiger, slower"]
    jobs = [job for job in sweep.jobs(todo, folder) if job.method == "tiger"]
    assert [task.stage for task in grid_tasks.plan(jobs)] == [None, None], "ids and before are there"


def test_saved_outputs_run_no_notebook_again_and_changed_code_does(
    killed: tuple[Path, Path, dict[str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, folder, _ = killed
    job = next(job for job in sweep.jobs(_cells(file), folder) if job.method == "markov")
    names = notebooks.notebooks_of(job)
    for name in names:
        (tmp_path / f"{name}.ipynb").write_bytes((notebooks.folder() / f"{name}.ipynb").read_bytes())
    monkeypatch.setattr(notebooks, "folder", lambda: tmp_path)
    assert grid.is_done(job, with_notebooks=False) and not grid.is_done(job, with_notebooks=True)

    def ran_to_its_end(source: str, target: str, **_: object) -> None:
        Path(target).write_bytes(Path(source).read_bytes())

    import papermill

    monkeypatch.setattr(papermill, "execute_notebook", ran_to_its_end)
    notebooks.execute_all(job)
    assert grid.is_done(job, with_notebooks=True)
    opened = nbformat.read(tmp_path / f"{names[0]}.ipynb", as_version=4)
    code = next(cell for cell in opened.cells if cell.cell_type == "code")
    code.outputs, code.execution_count = [nbformat.v4.new_output("stream", text="seen")], 7
    opened.metadata["widgets"] = {}
    nbformat.write(opened, tmp_path / f"{names[0]}.ipynb")
    assert grid.is_done(job, with_notebooks=True), "an output that was saved in JupyterLab"
    code.source += "\n1 + 1"
    nbformat.write(opened, tmp_path / f"{names[0]}.ipynb")
    assert not grid.is_done(job, with_notebooks=True) and grid.is_done(job, with_notebooks=False)


def test_results_filters(killed: tuple[Path, Path, dict[str, int]], capsys: pytest.CaptureFixture[str]) -> None:
    file, folder, _ = killed
    where = ["results", "--runs", str(folder)]
    assert cli.main([*where, "--method", "markov", "--list", "main", "--metric", "mrr@20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "test/mrr@20" in lines[0] and "markov" in lines[1]
    assert cli.main([*where, "--sweep", str(file), "--list", "popularity", "--size", "smoke"]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert len(rows) == len(ROWS), "every cell that is done, with its level"
    assert cli.main([*where, "--dataset", "demo"]) == 0
    assert "empty table" in capsys.readouterr().out


# --- what is to do ---------------------------------------------------------------------------------------------------

POOL = [
    (method, seed, {**QUICK, **changed})
    for method in ("musicrec", "text_text", "tiger", "tiger_image", "markov")
    for seed, changed in ((0, {}), (1, {}), (0, {"tokenizer": {"epochs": 2}}), (0, {"generator": {"steps": 3}}))
]


@pytest.fixture(scope="module")
def pool() -> list[Job]:
    """Return jobs that share more or less, of which nothing is built."""
    nowhere = Path("/nowhere/runs")
    return [Job("demo_tiny", method, "smoke", seed, nowhere, None, values) for method, seed, values in POOL]


@settings(deadline=None, max_examples=60)
@given(chosen=st.lists(st.integers(0, len(POOL) - 1), max_size=9))
def test_every_stage_is_made_by_one_task_and_nobody_waits_for_what_he_does_not_need(
    chosen: list[int], pool: list[Job]
) -> None:
    tasks = grid_tasks.plan([pool[number] for number in chosen])
    reads: dict[str, set[str]] = {}  # task -> keys that it and all that it waits for would build, by themselves
    before: dict[str, set[str]] = {}  # task -> the tasks that it waits for, directly or not
    makes: dict[str, set[str]] = {}
    for task in tasks:
        stages = task.job.upstream(task.stage or "evaluate")
        reads[task.name] = {task.job.keys[stage] for stage in stages}
        before[task.name] = set(task.needs).union(*(before[name] for name in task.needs))
        makes[task.name] = reads[task.name] - set().union(*(makes[name] for name in before[task.name]))
    whole = {task.job.run_folder for task in tasks if task.stage is None}
    assert whole == {pool[number].run_folder for number in chosen}
    assert len({task.name for task in tasks}) == len(tasks)
    made = [key for keys in makes.values() for key in keys]
    assert len(made) == len(set(made)), "a stage would be made by two tasks"
    for task in tasks:
        needed = {task.job.keys[stage] for stage in task.job.keys} if task.stage is None else reads[task.name]
        of_equal_users = {name for name in before[task.name] if not makes[name] <= needed}
        for name in of_equal_users:  # only a stage that every run below needs, too
            below = [t for t in tasks if t.stage is None and (t.name == task.name or task.name in before[t.name])]
            assert all(makes[name] <= set(t.job.keys.values()) for t in below)


def test_the_stages_that_two_rows_share_come_first_and_once(pool: list[Job]) -> None:
    jobs = [job for job in pool if job.method == "tiger" and job.seed == 0]
    tasks = grid_tasks.plan(jobs)
    assert [task.stage for task in tasks] == ["features.text", "ids", None, None, None]
    shared, ids = tasks[0].name, tasks[1].name
    needs = {tuple(task.needs) for task in tasks if task.stage is None}
    assert tasks[1].needs == (shared,) and needs == {(shared, ids), (shared,)}


def test_two_cells_that_want_one_folder_are_refused(tmp_path: Path) -> None:
    rows = {}
    for row, epochs in (("a", 5), ("b", 6)):  # two files of one name
        (tmp_path / row).mkdir()
        (tmp_path / row / "mine.yaml").write_text(f"base: tiger\ntokenizer: {{epochs: {epochs}}}\n")
        rows[row] = {"method": str(tmp_path / row / "mine.yaml")}
    raw = {"datasets": ["demo_tiny"], "size": "smoke", "axes": {"row": rows}}
    with pytest.raises(Refused, match=r"want the folder .*/demo_tiny/runs/mine/smoke/seed0 for other"):
        grid.run("twice", list(sweep.cells(raw)), grid.Options(tmp_path))


@pytest.mark.parametrize(
    ("rows", "more", "words"),
    [
        ({"a": {"method": "tigger"}}, [], ["tigger", "did you mean 'tiger'", "nothing was run"]),
        ({"a": {"features": {"text": {"file": "nowhere.npy"}}}}, [], ["nowhere.npy", "--data-root"]),
        ({"a": {"method": "markov"}}, ["--executor", "slurm"], ["slurm", "pip install"]),
    ],
)
def test_what_cannot_run_is_refused_before_anything_runs(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    rows: dict[str, Any],
    more: list[str],
    words: list[str],
) -> None:
    there = grid.importlib.util.find_spec
    monkeypatch.setattr(grid.importlib.util, "find_spec", lambda name: None if "slurm" in name else there(name))
    assert _grid(_sweep(tmp_path / "s.yaml", rows), tmp_path / "runs", *more) == cli.REFUSED
    message = capsys.readouterr().err
    assert all(word in message for word in words)
    assert not (tmp_path / "runs").exists()


def test_an_unknown_sweep_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["grid", "demo_world", "--runs", str(tmp_path)]) == cli.REFUSED
    assert "did you mean 'demo_worlds'" in capsys.readouterr().err


def test_a_dry_run_lists_the_cells_and_builds_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _grid(_sweep(tmp_path / "s.yaml", ROWS), tmp_path / "runs", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert all(row in printed for row in ROWS) and printed.count("to do\n") == len(ROWS)
    assert "4 runs to do, and 2 stages that several of them share" in printed
    assert not (tmp_path / "runs").exists()


def test_a_second_grid_of_the_same_sweep_is_refused(tmp_path: Path) -> None:
    with grid._alone(tmp_path / "s"), pytest.raises(Refused, match="another process runs the sweep s"):
        with grid._alone(tmp_path / "s", patience=1):
            pass


# --- one task --------------------------------------------------------------------------------------------------------


def _planned(folder: Path, gpus: list[str]) -> None:
    runs.write_json(
        folder / "plan.json",
        {"tasks": {"t": {"command": "musicrec run x"}}, "gpus": gpus, "jobs_per_gpu": 1, "notebooks": False},
    )


@pytest.fixture
def orphan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the process of the tests from asking to die with its parent, and give its environment back."""
    monkeypatch.setattr(grid_tasks, "die_with_parent", lambda: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "as it was")


def test_a_task_has_one_gpu_and_leaves_a_record(tmp_path: Path, orphan: None) -> None:
    folder = tmp_path / "s"
    _planned(folder, ["2", "5"])
    with grid_tasks.recorded(folder, "t") as task:
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "2" and task["command"] == "musicrec run x"
        assert runs.read_json(folder / "records" / "t.json")["code"] is None
        with grid_tasks.gpu_slot(["2", "5"], 1, tmp_path / "gpus") as other:
            assert other == "5", "the first is taken"
    assert runs.read_json(folder / "records" / "t.json")["code"] == 0


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (Refused("no such thing"), 2, "no such thing"),
        (grid_tasks.StageFailed("ids", OSError("disk full")), 3, "stage ids failed: OSError: disk full"),
        (ZeroDivisionError("by zero"), 1, "ZeroDivisionError: by zero"),
        (SystemExit(143), 143, "SystemExit: 143"),
    ],
)
def test_a_record_says_what_failed(tmp_path: Path, orphan: None, error: BaseException, code: int, words: str) -> None:
    _planned(tmp_path / "s", [])
    with pytest.raises(type(error)), grid_tasks.recorded(tmp_path / "s", "t"):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "as it was", "there is no GPU to give"
        raise error
    record = runs.read_json(tmp_path / "s" / "records" / "t.json")
    assert (record["code"], record["error"]) == (code, words)


def test_gpus_are_shared_evenly_and_waited_for(tmp_path: Path) -> None:
    order = []
    with grid_tasks.contextlib.ExitStack() as held:
        for _ in range(4):
            order.append(held.enter_context(grid_tasks.gpu_slot(["a", "b"], 2, tmp_path)))
        assert order == ["a", "b", "a", "b"]
        waited = threading.Thread(target=lambda: order.append(held_later(tmp_path)))
        waited.start()
        time.sleep(0.2)
        assert len(order) == 4, "no place is free"
    waited.join(timeout=20)
    assert order[4:] == ["a"]


def held_later(folder: Path) -> str | None:
    """Return the GPU that is had once one is free."""
    with grid_tasks.gpu_slot(["a", "b"], 2, folder) as name:
        return name


@pytest.mark.parametrize(("given", "found"), [("2,3", ["2", "3"]), ("", []), ("-1", []), ("MIG-x", ["MIG-x"])])
def test_visible_gpus_are_obeyed(monkeypatch: pytest.MonkeyPatch, given: str, found: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert grid_tasks.gpus() == found


@pytest.mark.parametrize(
    ("options", "names", "shares"),
    [
        (grid.Options(Path(), jobs=3), [], (3, 2)),
        (grid.Options(Path()), [], (8, 1)),
        (grid.Options(Path()), ["0", "1"], (2, 4)),
        (grid.Options(Path(), jobs=1, threads=5), ["0", "1"], (1, 5)),
        (grid.Options(Path(), executor="slurm"), [], (grid.SLURM_JOBS, grid.SLURM_THREADS)),
    ],
)
def test_cores_are_divided_by_jobs(
    monkeypatch: pytest.MonkeyPatch, options: grid.Options, names: list[str], shares: tuple[int, int]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert grid._shares(options, names) == shares


def test_the_command_of_a_task_asks_for_the_same_run() -> None:
    values = {"tokenizer": {"beta": 1e-05}, "generator": {"tasks": ["next"]}, "ids": {"collisions": "suffix"}}
    job = Job("demo_tiny", "tiger", "smoke", 1, Path("runs"), None, values)
    words = grid_tasks.shlex.split(grid_tasks.command_of(job, "ids", False))
    options = cli.parser().parse_args(words[1:])
    again = cli.make_job(options)
    assert again.keys == job.keys and again.run_folder == job.run_folder and options.until == "ids"


# --- how it goes -----------------------------------------------------------------------------------------------------


def test_outcomes_name_the_shared_stage_that_failed(tmp_path: Path, pool: list[Job]) -> None:
    tasks = {
        name: grid_tasks.Task(name, pool[0], None, needs) for name, needs in {"s": (), "a": ("s",), "b": ()}.items()
    }
    runs.write_json(tmp_path / "records" / "s.json", {"code": 3, "error": "stage ids failed: no", "seconds": 4.0})
    runs.write_json(tmp_path / "records" / "b.json", {"code": None, "error": "", "seconds": 0.0})
    found = grid.outcomes(tmp_path, tasks)
    assert {name: each["state"] for name, each in found.items()} == {"s": "failed", "a": "failed", "b": "running"}
    assert found["a"]["error"] == "stage ids failed: no" and found["a"]["log"] == tmp_path / "logs" / "s.log"
    over = grid.outcomes(tmp_path, tasks, over=True)
    assert over["b"]["state"] == "failed" and "killed" in over["b"]["error"]


def test_progress_tells_done_left_failed_and_the_time(
    tmp_path: Path, pool: list[Job], caplog: pytest.LogCaptureFixture
) -> None:
    tasks = [grid_tasks.Task(name, pool[0], None, ()) for name in "abcde"]
    runs.write_json(tmp_path / "records" / "a.json", {"code": 0, "error": "", "seconds": 100.0})
    runs.write_json(tmp_path / "records" / "b.json", {"code": 0, "error": "", "seconds": 200.0})
    runs.write_json(tmp_path / "records" / "c.json", {"code": 2, "error": "no", "seconds": 1.0})
    progress = grid._Progress(tmp_path, tasks, total=7, parallel=1)
    with caplog.at_level("INFO"):
        progress.tell()
        progress.tell()
    assert caplog.messages == ["grid: 4 of 7 runs done, 2 left, 1 failed, about 5 min left"]


def test_the_engine_keeps_going_without_locks_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.write_json(tmp_path / "plan.json", {"jobs": 3, "threads": 2})
    monkeypatch.delenv("SNAKEMAKE_PROFILE", raising=False)
    words = grid.engine_command(tmp_path, "slurm")
    assert words[words.index("--cores") + 1] == "6" and words[words.index("--jobs") + 1] == "3"
    assert words[words.index("--slurm-status-command") + 1] == "squeue" and "--keep-going" in words
    assert Path(words[words.index("--snakefile") + 1]).is_file()
