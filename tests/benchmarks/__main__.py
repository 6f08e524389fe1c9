"""`python -m tests.benchmarks [NAME ...]`: measure rows and print their ratios; `--record` keeps them.

`scale` is no row: it shows how time and memory grow, and `--record` keeps its figure.
"""

import argparse
import importlib
import sys
from pathlib import Path

import torch

import musicrec_kit  # noqa: F401  (prepares the import of torchvision)
from tests.benchmarks import harness, scale

ROWS = ("decode", "train", "tokenizer", "rkmeans", "catalogue", "evaluation", "data", "sequential", "features")


def main(argv: list[str]) -> int:
    """Measure the rows that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ROWS)} (default: all)")
    parser.add_argument("--data-root", type=Path, help="folder of published data; without it rows use generated data")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the work, for a quick look (default: 1)")
    parser.add_argument("--threads", type=int, help="CPU threads of both ways (default: all)")
    parser.add_argument("--record", action="store_true", help=f"keep the lines in {harness.RESULTS.name}")
    asked = parser.parse_args(argv)
    if "scale" in asked.names:
        torch.set_num_threads(asked.threads or torch.get_num_threads())
        return scale.main(asked.scale, asked.record)
    if unknown := set(asked.names) - set(ROWS):
        parser.error(f"no row {', '.join(sorted(unknown))}; there is {', '.join(ROWS)}")
    if asked.threads:
        torch.set_num_threads(asked.threads)
    rates, lines = harness.matmul_rates(), []
    print(f"{harness.where()}; matmul {', '.join(f'{name} {rate / 1e12:.2f} TFLOP/s' for name, rate in rates.items())}")
    print(harness.HEAD)
    for name in asked.names or ROWS:
        for row in importlib.import_module(f"tests.benchmarks.{name}").rows(asked.data_root, asked.scale):
            for measured in harness.measure(row):
                lines.append(measured.line(rates))
                print(lines[-1], flush=True)
    if asked.record:
        harness.record(lines, rates)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
