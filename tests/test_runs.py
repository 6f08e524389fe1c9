"""Files are written whole, stages are found again, and a broken build leaves nothing that looks finished."""

import multiprocessing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from musicrec_kit import runs
from musicrec_kit.params import Refused


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    runs.write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), runs.atomic(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert runs.read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_tensors_and_tables_come_back_equal(tmp_path: Path) -> None:
    arrays = {"zero_d": np.array(3.0), "empty": np.zeros((0, 4), np.float32), "t": np.arange(6).reshape(2, 3).T}
    runs.write_tensors(tmp_path / "x.safetensors", arrays, {"who": "me"})
    back = runs.read_tensors(tmp_path / "x.safetensors")
    for name, array in arrays.items():
        assert back[name].shape == array.shape
        np.testing.assert_array_equal(back[name], array)
    assert runs.read_tensor_metadata(tmp_path / "x.safetensors") == {"who": "me"}
    frame = pd.DataFrame({"user": [1, 2], "list": ["a", None]})
    runs.write_table(tmp_path / "x.parquet", frame)
    pd.testing.assert_frame_equal(runs.read_table(tmp_path / "x.parquet"), frame)


def _stage(tmp_path: Path, settings: dict, build) -> runs.StageResult:
    return runs.run_stage(tmp_path, "d", "cf", settings, {"data": "k"}, 1, build)


def test_a_stage_runs_once_and_again_when_a_setting_changes(tmp_path: Path) -> None:
    calls = []

    def build(folder: Path) -> None:
        calls.append(folder)
        runs.write_json(folder / "x.json", 1)

    first, again = _stage(tmp_path, {"a": 1}, build), _stage(tmp_path, {"a": 1}, build)
    other = _stage(tmp_path, {"a": 2}, build)
    assert (first.reused, again.reused, other.reused) == (False, True, False)
    assert len(calls) == 2
    assert first.folder != other.folder
    record = runs.read_json(first.folder / "stage.json")
    assert record["files"] == {"x.json": runs.sha256_file(first.folder / "x.json")}
    assert {"schema", "key", "settings", "inputs", "version", "seconds", "peak_memory_mb"} <= set(record)


def test_a_stages_seconds_leave_out_what_was_built_on_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(runs.time, "perf_counter", lambda: now[0])

    def after(seconds: float, *within: tuple[str, float]):
        def build(folder: Path) -> None:
            now[0] += seconds
            for name, inner in within:
                _stage(tmp_path, {"name": name}, after(inner))

        return build

    outer = _stage(tmp_path, {"name": "outer"}, after(1.0, ("first", 10.0), ("second", 100.0), ("first", 10.0)))
    later = _stage(tmp_path, {"name": "later"}, after(5.0))
    assert (outer.seconds, later.seconds) == (1.0, 5.0)

    def continued(folder: Path) -> None:
        runs.count_earlier(30.0)
        now[0] += 2.0

    resumed = _stage(tmp_path, {"name": "resumed"}, continued)
    around = _stage(tmp_path, {"name": "around"}, lambda _: (continued(tmp_path), after(1.0, ("first", 9.0))(tmp_path)))
    assert (resumed.seconds, around.seconds) == (32.0, 33.0)


def test_checkpoints_stay_until_the_stage_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(folder: Path) -> None:
        (folder / "checkpoint").mkdir(exist_ok=True)
        (folder / "checkpoint" / "last").write_text("weights")
        (folder / "made").write_text("result")

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(runs, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        _stage(tmp_path, {}, build)
    (checkpoint,) = tmp_path.rglob("checkpoint")
    made = _stage(tmp_path, {}, build)
    assert not checkpoint.exists() and made.folder == checkpoint.parent
    assert list(runs.read_json(made.folder / "stage.json")["files"]) == ["made"]


def test_a_stage_that_died_is_built_again_in_the_same_folder(tmp_path: Path) -> None:
    def die(folder: Path) -> None:
        (folder / "half.json").write_text("1")
        (folder / ".x.part").write_text("1")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        _stage(tmp_path, {}, die)
    result = _stage(tmp_path, {}, lambda folder: runs.write_json(folder / "half.json", 2))
    assert not result.reused
    assert runs.read_json(result.folder / "half.json") == 2
    assert not list(result.folder.glob("*.part"))


def _append(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        with (tmp_path / "calls").open("a") as opened:
            opened.write("x")
        runs.write_json(folder / "x.json", 1)

    _stage(tmp_path, {}, build)


def test_two_processes_build_a_stage_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append, args=(tmp_path,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (tmp_path / "calls").read_text() == "x"


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"no stages\.json"):
        runs.load_run(tmp_path)


def test_keys_do_not_depend_on_the_order_of_settings() -> None:
    assert runs.key_of({"a": 1, "b": [1, 2]}) == runs.key_of({"b": (1, 2), "a": 1})
    assert runs.key_of({"a": 1}) != runs.key_of({"a": 1.5})
