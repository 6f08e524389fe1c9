"""Results of a sweep made by hand: what `sweep.results` returns, with the run folders that it names."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from musicrec_kit import runs
from musicrec_kit.evaluation import metrics

METRICS = ("hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr@5")


def results_of(
    runs_dir: Path, ranks: Mapping[str, Sequence[Sequence[int]]], dataset: str = "toy", fingerprint: str = "f"
) -> pd.DataFrame:
    """Write runs and return their results.

    Args:
        ranks: row -> one list of the targets' plain ranks per seed; masked, every rank above 1 is one better.
    """
    rows = []
    for at, (row, seeds) in enumerate(ranks.items()):
        for seed, given in enumerate(seeds):
            plain = np.asarray(given)
            masked = np.where(plain > 1, plain - 1, plain)
            folder = f"{dataset}/runs/row{at}/smoke/seed{seed}"
            users = pd.DataFrame({"user": range(len(plain)), "rank": plain, "rank_no_history": masked})
            other = users.assign(rank=1, rank_no_history=1)
            table = pd.concat(
                [
                    users.assign(list="merged", split="test")[::-1],
                    other.assign(list="text", split="test"),
                    other.assign(list="merged", split="valid"),
                ]
            )
            runs.write_table(runs_dir / folder / "per_user.parquet", table)
            about = {"dataset": dataset, "fingerprint": fingerprint, "method": f"row{at}", "variant": "", "row": row}
            about |= {"size": "smoke", "seed": seed, "run": folder, "main_list": "merged", "encoders": "text: tiny"}
            for end, values in (("", plain), ("/no_history", masked)):
                for metric in METRICS:
                    value = float(metrics.per_user(values, metric).mean())
                    rows.append({**about, "list": "merged", "metric": metric + end, "value": value})
                    rows.append({**about, "list": "text", "metric": metric + end, "value": 1.0})
    return pd.DataFrame(rows)


def hits(share: float, users: int = 400, first: int = 0, rank: int = 1) -> list[int]:
    """Return ranks in which `share` of the users have a hit, beginning with the user `first`."""
    ranks = np.zeros(users, int)
    ranks[(np.arange(round(share * users)) + first) % users] = rank
    return ranks.tolist()
