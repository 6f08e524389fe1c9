"""Files, stage results and run folders: everything is written whole or not at all.

Data in: objects of the stages. Data out: `<runs>/<dataset>/stages/<stage>/<key>/` (complete when `stage.json` is there,
written last) and `<runs>/<dataset>/runs/<method>[+<variant>]/<size>/seed<k>/` (complete when `metrics.json` is there).
"""

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from musicrec_kit.locks import lock
from musicrec_kit.params import Refused

log = logging.getLogger(__name__)

_inner: ContextVar[float] = ContextVar("seconds of the stages built within the one that is being built", default=0.0)
SCHEMA = 1  # of stage.json and of the run folder
PACKAGES = (
    "musicrec-kit",
    "torch",
    "transformers",
    "open_clip_torch",
    "numpy",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "pydantic",
)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder and rename it to `path` when the block ends well; else remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in the order given."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)


def read_json(path: Path) -> Any:
    """Read JSON; a file that is not JSON is refused by name."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Refused(f"{path} is not valid JSON ({error}); remove it and run again") from error


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a frame as parquet, atomically."""
    with atomic(path) as part:
        frame.to_parquet(part, index=False)


def read_table(path: Path) -> pd.DataFrame:
    """Read a parquet file."""
    return pd.read_parquet(path)


def write_tensors(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write named numpy arrays or torch tensors as safetensors, atomically."""
    arrays = {name: np.asarray(_array(value), order="C") for name, value in tensors.items()}
    from safetensors.numpy import save_file

    with atomic(path) as part:
        save_file(arrays, part, metadata=dict(metadata) if metadata else None)


def _array(value: Any) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else value.detach().cpu().numpy()


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read safetensors as numpy arrays."""
    from safetensors.numpy import load_file

    return load_file(path)


def read_tensor_metadata(path: Path) -> dict[str, str]:
    """Read the text metadata of a safetensors file."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as opened:
        return dict(opened.metadata() or {})


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def key_of(value: Any) -> str:
    """Return 16 hex digits of the sha256 of a JSON value, the same for equal values.

    >>> key_of({"a": 1, "b": (2,)}) == key_of({"b": [2], "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_plain).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class StageResult:
    """A complete stage folder: where it is, its key, and whether it was there before."""

    stage: str
    key: str
    folder: Path
    reused: bool
    seconds: float


def stage_folder(runs: Path, dataset: str, stage: str, key: str) -> Path:
    """Return `<runs>/<dataset>/stages/<stage>/<key>`."""
    return runs / dataset / "stages" / stage / key


def run_stage(
    runs: Path,
    dataset: str,
    stage: str,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    version: int,
    build: Callable[[Path], None],
) -> StageResult:
    """Build a stage's folder unless it is complete, and return it.

    Args:
        stage: name of the stage; a part after a dot ("features.text") belongs to the key, not to the folder's name.
        settings: the stage's own resolved settings, plain values.
        inputs: name -> key of what the stage reads.
        version: the stage's code version; raised by hand when results change.
        build: writes the stage's files into the folder that it is given; may find files of a killed run there.
    """
    identity = {"stage": stage, "settings": settings, "inputs": inputs, "version": version}
    key = key_of(identity)
    folder = stage_folder(runs, dataset, stage.split(".", maxsplit=1)[0], key)
    with lock(folder.parent / f".{key}.lock"):
        if (folder / "stage.json").is_file():
            log.info("%s: reused %s", stage, key)
            return StageResult(stage, key, folder, True, float(read_json(folder / "stage.json")["seconds"]))
        folder.mkdir(parents=True, exist_ok=True)
        for part in folder.glob(".*.part"):
            part.unlink()
        with _own_time() as spent:
            build(folder)
        seconds = round(spent[0], 3)
        made = [f for f in sorted(folder.rglob("*")) if f.is_file() and "checkpoint" not in f.relative_to(folder).parts]
        files = {str(f.relative_to(folder)): sha256_file(f) for f in made}
        record = {
            "schema": SCHEMA,
            "key": key,
            **identity,
            "files": files,
            "seconds": seconds,
            "peak_memory_mb": peak_memory_mb(),
        }
        write_json(folder / "stage.json", record)
        for checkpoint in list(folder.rglob("checkpoint")):  # only now: a killed process would need it
            shutil.rmtree(checkpoint, ignore_errors=True)
    log.info("%s: made %s in %.1f s", stage, key, seconds)
    return StageResult(stage, key, folder, False, seconds)


@contextlib.contextmanager
def _own_time() -> Iterator[list[float]]:
    """Give a list that holds, afterwards, the seconds of a build without the stages that were built on its way."""
    start, outer = time.perf_counter(), _inner.get()
    spent: list[float] = []
    _inner.set(0.0)
    try:
        yield spent
    finally:
        whole = time.perf_counter() - start
        spent.append(whole - _inner.get())
        _inner.set(outer + whole)


def count_earlier(seconds: float) -> None:
    """Count what a killed process had spent, and what is not done again, to the stage that is being built."""
    _inner.set(_inner.get() - seconds)


def peak_memory_mb() -> int:
    """Return the peak resident memory of this process in MiB (Linux counts KiB, macOS bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak / (1024 if platform.system() != "Darwin" else 1024**2))


def versions() -> dict[str, str]:
    """Return the versions of Python, the machine's kind and the packages that decide numbers."""
    found = {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@dataclass(frozen=True)
class Run:
    """One run: method x data set x size x seed, and its folder."""

    dataset: str
    method: str
    variant: str
    size: str
    seed: int
    folder: Path
    stages: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return `dataset/method[+variant]/size/seed<k>`."""
        return f"{self.dataset}/{self.method}{self.variant}/{self.size}/seed{self.seed}"

    @property
    def metrics(self) -> dict[str, Any]:
        """Return metrics.json."""
        return read_json(self.folder / "metrics.json")

    def stage(self, name: str) -> Path:
        """Return the folder of a stage that this run points to."""
        if name not in self.stages:
            raise Refused(f"run {self.name} has no stage {name!r}; it has {', '.join(self.stages)}")
        return stage_folder(self.folder.parents[4], self.dataset, name.split(".", maxsplit=1)[0], self.stages[name])


def encoders(run: Run) -> str:
    """Return what made the features of a run, in words: every table row prints it, since encoders get substituted.

    So does a T5 that the method keeps frozen: without a pretrained one, all of it is trained.
    """
    named = []
    for stage in run.stages:
        kind, _, modality = stage.partition(".")
        path = run.stage(stage) / f"{modality}.safetensors"
        if kind == "features" and path.is_file():
            named.append(f"{modality}: {read_tensor_metadata(path).get('encoder', 'unknown')}")
    told = run.folder / "settings.yaml"
    settings = yaml.safe_load(told.read_text(encoding="utf-8")) if told.is_file() else {}
    if not named and "ids" in run.stages:
        words = {"tokenizer": "none (IDs from interactions)", "numbers": "none (IDs are numbers)"}
        named.append(words.get(settings.get("ids", {}).get("source", ""), "published IDs"))
    generator = settings.get("generator", {}) if "generator" in run.stages else {}
    if generator.get("frozen") and not generator.get("pretrained"):
        named.append("T5 from scratch")
    return ", ".join(named) or "none"


def run_folder(runs: Path, dataset: str, method: str, variant: str, size: str, seed: int) -> Path:
    """Return `<runs>/<dataset>/runs/<method>[+<variant>]/<size>/seed<k>`."""
    return runs / dataset / "runs" / f"{method}{variant}" / size / f"seed{seed}"


def load_run(folder: str | Path) -> Run:
    """Load a finished or unfinished run from its folder."""
    folder = Path(folder).resolve()
    if not (folder / "stages.json").is_file():
        raise Refused(f"{folder} is not a run: it has no stages.json; `musicrec list` shows the runs there are")
    size, seed = folder.parts[-2], folder.parts[-1]
    method, _, variant = folder.parts[-3].partition("+")
    return Run(
        dataset=folder.parts[-5],
        method=method,
        variant=f"+{variant}" if variant else "",
        size=size,
        seed=int(seed.removeprefix("seed")),
        folder=folder,
        stages=read_json(folder / "stages.json"),
    )


def list_runs(runs: Path) -> list[Run]:
    """Return every finished run (those with metrics.json), sorted by name."""
    return sorted((load_run(f.parent) for f in runs.glob("*/runs/*/*/seed*/metrics.json")), key=lambda run: run.name)


RESULTS_COLUMNS = ("dataset", "fingerprint", "method", "variant", "size", "seed", "list", "metric", "value", "run")


def results_rows(run: Run) -> list[dict[str, Any]]:
    """Return a run's rows of the results table; `run` is its folder seen from the folder of runs."""
    metrics, names = run.metrics, ("dataset", "method", "variant", "size", "seed")
    common = {name: getattr(run, name) for name in names} | {"fingerprint": metrics["fingerprint"]}
    common["run"] = run.folder.relative_to(run.folder.parents[4]).as_posix()
    rows = []
    for name, value in metrics.items():
        if name.count("/") >= 2 and isinstance(value, int | float):
            split, list_name, metric = name.split("/", 2)
            row = {**common, "list": list_name, "metric": f"{split}/{metric}", "value": value}
            rows.append({column: row[column] for column in RESULTS_COLUMNS})
    return rows


def results_table(runs: Path) -> pd.DataFrame:
    """Return the contract's results table: one row per finished run, list and metric (`test/hr@10`).

    The same is written to `<runs>/results.parquet`, if there is a run.
    """
    table = pd.DataFrame([row for run in list_runs(runs) for row in results_rows(run)], columns=list(RESULTS_COLUMNS))
    if len(table):
        write_table(runs / "results.parquet", table)
    return table
