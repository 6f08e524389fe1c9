"""Time the kit's SASRec and hopwise's to one quality of validation: `python -m tests.crosscheck instruments`.

Both train in this process with as many threads, on the same sequences, with the same settings and as many steps per
epoch, and are asked for validation NDCG@10 (plain) after every epoch; what asking takes is no part of the training.
hopwise is timed without torch's search for anomalies, which it turns on by mistake; `--as-installed` leaves it on.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from musicrec_kit import methods
from musicrec_kit.data import load_dataset
from musicrec_kit.data.splits import Sequences
from musicrec_kit.evaluation import metrics
from musicrec_kit.params import SequentialParams
from musicrec_kit.sequential import fit_recommender, recommender
from tests.crosscheck.hopwise_side import Hopwise

METHOD = "sasrec"


class Reached(Exception):
    """The quality is reached, or the time is over."""


class Clock:
    """Seconds of training, with those of every evaluation taken out, until one finds what is asked for."""

    def __init__(self, until: float, minutes: float) -> None:
        """Start."""
        self.until, self.minutes = until, minutes
        self.found: list[float] = []
        self.asking = 0.0
        self.start, self.start_cpu = time.perf_counter(), time.process_time()

    def around(self, ranks: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        """Return a function that ranks, which stops this clock meanwhile and ends the training where it may end."""

        def asked(*arguments: object) -> np.ndarray:
            self.seconds, self.cpu = time.perf_counter() - self.start, time.process_time() - self.start_cpu
            rank = ranks(*arguments)
            self.found.append(float(metrics.ndcg(rank, 10).mean()))
            if self.found[-1] >= self.until or self.seconds > 60 * self.minutes:
                raise Reached
            now, now_cpu = time.perf_counter(), time.process_time()
            self.asking += now - self.start - self.seconds
            self.start, self.start_cpu = now - self.seconds, now_cpu - self.cpu
            return rank

        return asked

    def run(self, owner: object, name: str, train: Callable[[], object]) -> None:
        """Train with `owner.name` as what ranks."""
        with patch.object(owner, name, self.around(getattr(owner, name))):
            try:
                train()
            except Reached:
                pass

    def tell(self, label: str) -> None:
        """Print what was found."""
        print(
            f"{label:8} {len(self.found):3} epochs, {self.seconds:7.1f} s ({self.cpu:.1f} s of CPU), "
            f"NDCG@10 {self.found[-1]:.4f}; all: {' '.join(f'{each:.4f}' for each in self.found)}; "
            f"asking beside it {self.asking:.1f} s",
            flush=True,
        )


def race(sequences: Sequences, params: SequentialParams, history: int, asked: argparse.Namespace) -> None:
    """Train both and print seconds, epochs, what they end with, and the ratio."""
    print(
        f"histories of {history}, {torch.get_num_threads()} thread(s), until {asked.until} or {asked.minutes} minutes"
    )
    ours = Clock(asked.until, asked.minutes)
    ours.run(recommender, "target_ranks", lambda: fit_recommender(sequences, params, history, seed=asked.seed))
    ours.tell("kit")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        other = Hopwise(METHOD, params, sequences, {}, history, asked.seed, Path(folder), asked.as_installed)
        print(f"hopwise has read its files after {time.perf_counter() - start:.1f} s, not counted", flush=True)
        theirs = Clock(asked.until, asked.minutes)
        theirs.run(other, "ranks", lambda: other.fit(params))
    theirs.tell("hopwise")
    torch.autograd.set_detect_anomaly(False)
    for what, clocks in (("seconds", (theirs.seconds, ours.seconds)), ("seconds of CPU", (theirs.cpu, ours.cpu))):
        each = clocks[0] / len(theirs.found) / (clocks[1] / len(ours.found))
        print(f"hopwise / kit, {what}: {clocks[0] / clocks[1]:.1f} in all, {each:.1f} per epoch")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.crosscheck", description=__doc__)
    parser.add_argument("dataset", help="a data set of params/datasets, or a file")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--size", default="small")
    parser.add_argument("--history", type=int, nargs="+", help="items that are read; more than one: one after another")
    parser.add_argument("--until", type=float, default=0.085)
    parser.add_argument("--minutes", type=float, default=30.0, help="of training, each; 0: one epoch each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--as-installed", action="store_true", help="leave hopwise's search for anomalies on")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    settings = methods.resolve(asked.dataset, METHOD, asked.size)
    with tempfile.TemporaryDirectory() as folder:
        sequences = load_dataset(settings.data, asked.dataset, asked.data_root, Path(folder)).sequences()
    for history in asked.history or [settings.data.history]:
        race(sequences, settings.sequential, history, asked)


if __name__ == "__main__":
    main()
