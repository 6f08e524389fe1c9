"""What every row of the benchmark shares: turns, ratios, the machine's own rate, and a line in RESULTS.md.

A row gives its sides as functions without arguments that do the same work and return its result. They take turns, so
that a machine that slows down slows all of them; the ratio is the median over turns.
"""

import gc
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).with_name("RESULTS.md")
HEAD = "| row | data | usual way | ours | usual, per s | ours, per s | ratio | range | TFLOP/s | of matmul | agree |"
MATMUL = 2048  # a side of the square matrices whose product is the machine's rate
MATMUL_SECONDS = 1.0


@dataclass(frozen=True)
class Side:
    """One way to do a row's work.

    Attributes:
        name: in the table.
        work: does all of it and returns its result.
        units: how many of the row's units are done; None: as many as the row has.
        flops: of all the work, counted from shapes; None where nothing is multiplied.
        precision: of the products, for the share of the machine's rate.
    """

    name: str
    work: Callable[[], Any]
    units: float | None = None
    flops: float | None = None
    precision: str = "fp32"


@dataclass(frozen=True)
class Row:
    """A line of the benchmark: the usual way, ours (one or more), and what says that they agree.

    Attributes:
        unit: what is counted ("users").
        agree: (result of the usual way, result of ours) -> a few words; raises AssertionError where they do not.
        data: what was worked on, in a few words.
        targets: name of one of our sides -> the ratio that is aimed at on two CPU cores.
        repeats: turns that count.
        warm: a turn before them warms up; not worth it where one takes minutes.
    """

    name: str
    unit: str
    units: float
    data: str
    usual: Side
    ours: Sequence[Side]
    agree: Callable[[Any, Any], str]
    targets: dict[str, float] = field(default_factory=dict)
    repeats: int = 3
    warm: bool = True


@dataclass(frozen=True)
class OwnTime:
    """What a side returns that has measured itself, since part of its work is not asked for."""

    seconds: float
    result: Any


@dataclass(frozen=True)
class Measured:
    """What a side took, in seconds per turn, beside the usual way's in the same turns."""

    row: Row
    side: Side
    seconds: list[float]
    usual_seconds: list[float]
    agreement: str

    @property
    def ratios(self) -> list[float]:
        """Return how many times faster this side was, turn by turn, per unit of work."""
        theirs = _units(self.row, self.row.usual) / np.array(self.usual_seconds)
        return list(_units(self.row, self.side) / np.array(self.seconds) / theirs)

    def line(self, rates: dict[str, float]) -> str:
        """Return the line of the table."""
        rate = _units(self.row, self.side) / statistics.median(self.seconds)
        usual = _units(self.row, self.row.usual) / statistics.median(self.usual_seconds)
        ratios, per_second, share = self.ratios, "", ""
        if self.side.flops:
            made = self.side.flops / statistics.median(self.seconds)
            per_second, share = f"{made / 1e12:.3f}", f"{made / rates[self.side.precision]:.0%}"
        cells = [self.row.name, self.row.data, self.row.usual.name, self.side.name]
        cells += [f"{usual:,.4g} {self.row.unit}", f"{rate:,.4g} {self.row.unit}"]
        cells += [f"{statistics.median(ratios):.1f}x", f"{min(ratios):.1f} to {max(ratios):.1f}"]
        cells += [per_second, share, self.agreement]
        return "| " + " | ".join(cells) + " |"


def _units(row: Row, side: Side) -> float:
    return row.units if side.units is None else side.units


def measure(row: Row) -> list[Measured]:
    """Run every side of a row in turns; the results of the first turn, which may only warm up, are compared."""
    first = {side.name: _clocked(side) for side in (row.usual, *row.ours)}
    agreements = {side.name: row.agree(first[row.usual.name][1], first[side.name][1]) for side in row.ours}
    turns = [] if row.warm else [{name: seconds for name, (seconds, _) in first.items()}]
    del first
    while len(turns) < row.repeats:
        turns.append({side.name: _clocked(side)[0] for side in (row.usual, *row.ours)})
    of = {name: [turn[name] for turn in turns] for name in turns[0]}
    return [Measured(row, side, of[side.name], of[row.usual.name], agreements[side.name]) for side in row.ours]


def _clocked(side: Side) -> tuple[float, Any]:
    gc.collect()
    synchronise()
    start = time.perf_counter()
    result = side.work()
    synchronise()
    if isinstance(result, OwnTime):
        return result.seconds, result.result
    return time.perf_counter() - start, result


def synchronise() -> None:
    """Wait until the accelerator, if there is one, has done all it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device() -> str:
    """Return the device that both ways run on."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def matmul_rates() -> dict[str, float]:
    """Return precision -> the machine's own FLOP/s in products of square matrices, with the threads of this process."""
    rates = {}
    for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a = torch.randn(MATMUL, MATMUL, device=device()).to(kind)
        for _ in range(2):
            a @ a
        synchronise()
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < MATMUL_SECONDS:
            a @ a
            synchronise()
            done += 1
        rates[name] = 2 * MATMUL**3 * done / (time.perf_counter() - start)
    return rates


def where() -> str:
    """Return the machine in a few words: device, threads, torch."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def cpu_name() -> str:
    """Return the processor's name."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", path.read_text(), re.M) if path.is_file() else None
    return found[1] if found else platform.processor() or platform.machine()


def commit() -> str:
    """Return the short name of the commit that is measured, with + where files differ from it."""
    here = Path(__file__).parent
    asked = ["git", "describe", "--always", "--dirty=+", "--abbrev=7", "--exclude=*"]
    done = subprocess.run(asked, cwd=here, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "no commit"


def record(lines: Sequence[str], rates: dict[str, float], path: Path = RESULTS) -> None:
    """Put the lines of a run below those of earlier runs, newest section first."""
    stamp = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    speeds = ", ".join(f"{name} {rate / 1e12:.2f}" for name, rate in rates.items())
    title = f"## {stamp}, {commit()}, {where()}; matmul TFLOP/s: {speeds}"
    text = path.read_text() if path.is_file() else "# Results of the benchmark\n"
    head, mark, rest = text.partition("\n## ")
    table = "\n".join([HEAD, "|" + "---|" * HEAD.count(" |"), *lines])
    path.write_text(f"{head.rstrip()}\n\n{title}\n\n{table}\n" + (f"\n## {rest}" if mark else ""))
