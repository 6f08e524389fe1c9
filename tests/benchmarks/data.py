"""Row `data`: from gzipped JSON lines of reviews to the sequences of a leave-one-out split of the 5-core.

The usual way is the lineage's (lineage.md section 1.1): a loop over lines with `json.loads`, dicts of lists, a k-core
that counts again until nothing is dropped, a sort per user, numbers by first appearance. Both ways follow the kit's
rules where the lineage leaves a choice: equal times stay in the file's order.
"""

import gzip
import io
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from musicrec_kit import data
from musicrec_kit.params import DataParams
from tests.benchmarks.harness import Row, Side

if TYPE_CHECKING:
    import polars as pl

REVIEWS, AT_ONCE = 10_000_000, 100_000
K_CORE = 5
FIRST_DAY, DAYS = 1_300_000_000 // 86_400, 1_200
COLUMNS = {"user": "reviewerID", "item": "asin", "rating": "overall", "time": "unixReviewTime"}
FILE = "reviews.jsonl.gz"
PARAMS = DataParams(source="table", interactions=FILE, columns=COLUMNS, k_core=K_CORE)

# raw item ids by number, and the items of each user in order; users are numbered as they first appear
Result = tuple[list[str], list[list[int]]]


def rows(data_root: Path | None, scale: float) -> Iterator[Row]:
    """Yield the row of data preparation."""
    with tempfile.TemporaryDirectory() as place:
        folder, n_reviews = Path(place), max(2_000, int(REVIEWS * scale))
        size = write_reviews(folder / FILE, n_reviews)
        peak = peak_of_kit(folder)
        yield Row(
            name="data",
            unit="reviews",
            units=n_reviews,
            data=f"{n_reviews:,} reviews, {size / 1e9:.2f} GB of .jsonl.gz; peak memory of ours {peak / 1e9:.2f} GB",
            usual=Side("json.loads per line, dicts", lambda: by_loops(folder / FILE)),
            ours=[Side("streamed, arrays", lambda: by_kit(folder))],
            agree=_agree,
            targets={"streamed, arrays": 5},
            repeats=1 if n_reviews > 1_000_000 else 3,
        )


def by_kit(folder: Path) -> Result:
    """Return items and histories by the kit's source `table`."""
    dataset = data.load_dataset(PARAMS, "reviews", folder, folder)
    sequences = dataset.sequences()
    return dataset.items["raw_id"].tolist(), np.split(sequences.items, sequences.offsets[1:-1])


def by_loops(path: Path) -> Result:
    """Return the same by loops and dicts."""
    reviews: dict[str, list[tuple[int, int, str]]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            review = json.loads(line)
            reviews.setdefault(review["reviewerID"], []).append((int(review["unixReviewTime"]), number, review["asin"]))
    histories: dict[str, list[str]] = {}
    for user, taken in reviews.items():
        taken.sort()
        histories[user] = list(dict.fromkeys(item for _, _, item in taken))
    while True:
        counts = Counter(item for items in histories.values() for item in items)
        kept = {}
        for user, items in histories.items():
            strong = [item for item in items if counts[item] >= K_CORE]
            if len(strong) >= K_CORE:
                kept[user] = strong
        done = sum(map(len, kept.values())) == sum(map(len, histories.values()))
        histories = kept
        if done:
            break
    number_of: dict[str, int] = {}
    sequences = [[number_of.setdefault(item, len(number_of)) for item in items] for items in histories.values()]
    return list(number_of), sequences


def _agree(usual: Result, ours: Result) -> str:
    assert usual[0] == ours[0], "items or their numbers differ"
    assert len(usual[1]) == len(ours[1]), f"{len(usual[1])} users, ours {len(ours[1])}"
    assert all(mine.tolist() == theirs for theirs, mine in zip(usual[1], ours[1], strict=True)), "sequences differ"
    n_interactions = sum(map(len, usual[1]))
    return f"equal: {len(usual[1]):,} users, {len(usual[0]):,} items, {n_interactions:,} interactions"


def peak_of_kit(folder: Path) -> int:
    """Return the most bytes that a process of its own holds while the kit prepares the data, imports included."""
    # Linux counts what the parent held at the fork into the child's ru_maxrss, but not into VmHWM
    code = (
        "import resource, sys; from pathlib import Path; from musicrec_kit import data; "
        "from musicrec_kit.params import DataParams; folder = Path(sys.argv[1]); "
        "data.load_dataset(DataParams.model_validate_json(sys.argv[2]), 'reviews', folder, folder).sequences(); "
        "status = Path('/proc/self/status'); most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
        "print(status.read_text().split('VmHWM:')[1].split()[0] if status.is_file() else most)"
    )
    asked = [sys.executable, "-c", code, str(folder), PARAMS.model_dump_json()]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) * (1 if sys.platform == "darwin" else 1024)


def write_reviews(path: Path, n_reviews: int) -> int:
    """Write made reviews in the fields of Amazon's files of 2014; return the bytes of the file.

    Few users and items have most reviews; texts have the length and the entropy of English (made words, Zipf's law);
    stamps are days, so that many of a user's reviews have one time.
    """
    import polars as pl

    generator = np.random.default_rng(0)
    columns = {
        "reviewerID": pl.Series(_ids(generator, "A", 13, max(50, n_reviews // 4))),
        "asin": pl.Series(_ids(generator, "B00", 7, max(30, n_reviews // 25))),
        "reviewerName": pl.Series(_texts(generator, 2_000, 2)),
        "reviewText": pl.Series(_texts(generator, 8_000, 75)),
        "summary": pl.Series(_texts(generator, 2_000, 4)),
    }
    with gzip.open(path, "wb", compresslevel=1) as file:
        for start in range(0, n_reviews, AT_ONCE):
            file.write(_lines(generator, min(AT_ONCE, n_reviews - start), columns))
    return path.stat().st_size


def _lines(generator: np.random.Generator, n: int, columns: "dict[str, pl.Series]") -> bytes:
    import polars as pl

    def drawn(name: str, skew: float = 1) -> pl.Series:
        return columns[name].gather((len(columns[name]) * generator.random(n) ** skew).astype(np.int64))

    days = FIRST_DAY + generator.integers(0, DAYS, n)
    frame = pl.DataFrame(
        {
            "reviewerID": drawn("reviewerID", 2.5),
            "asin": drawn("asin", 2.5),
            "reviewerName": drawn("reviewerName"),
            "helpful": generator.integers(0, 9, (n, 2)),
            "reviewText": drawn("reviewText"),
            "overall": generator.choice(5, n, p=[0.06, 0.05, 0.1, 0.2, 0.59]) + 1.0,
            "summary": drawn("summary"),
            "unixReviewTime": days * 86_400,
            "reviewTime": pl.from_epoch(pl.Series(days), time_unit="d").dt.strftime("%m %d, %Y"),
        }
    )
    made = io.BytesIO()
    frame.write_ndjson(made)
    return made.getvalue()


def _ids(generator: np.random.Generator, start: str, width: int, n: int) -> list[str]:
    letters = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", "S1")
    drawn = letters[generator.integers(0, 36, (n, width))].view(f"S{width}").ravel()
    return [start + text.decode() for text in np.unique(drawn)]


def _texts(generator: np.random.Generator, n: int, n_words: int) -> list[str]:
    letters = np.array(list("eeeeettttaaaoooiiinnnsssrrrhhllddccuummffppggwwyybbvvk"))
    words = np.array(["".join(generator.choice(letters, width)) for width in generator.integers(2, 9, 6_000)])
    chances = np.cumsum(1 / np.arange(1, len(words) + 1))
    counts = np.maximum(1, generator.lognormal(np.log(n_words), 0.7, n)).astype(int)
    drawn = words[np.searchsorted(chances, chances[-1] * generator.random(counts.sum()))]
    return [" ".join(text) for text in np.split(drawn, np.cumsum(counts)[:-1])]
