"""Early fusion's dominance (MGR Finding 1): whose groups, neighbours and predictions does a fused matrix keep?"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from musicrec_kit.analysis.agreement import adjusted_mutual_information, overlap_of
from musicrec_kit.analysis.groups import centred_unit, groups_of
from musicrec_kit.analysis.neighbours import shared_neighbours
from musicrec_kit.data.splits import Examples, Sequences, held_out
from musicrec_kit.evaluation.protocol import RankedList, rank_by_scores
from musicrec_kit.features import Features

Described = tuple[Features, np.ndarray]  # features, and the first code of every item (-1: none)


def described(job: Any, modality: str) -> Described:
    """Return the features of a job's modality and the first codes that its tokenizer gave."""
    return job.features[modality], groups_of(job.codes.codes[modality], 1)


def nearest_to_last(features: Features, sequences: Sequences, k: int = 5) -> RankedList:
    """Return every test user's k items most similar to the user's last one by cosine, the last item itself left out.

    A recommender that needs no training, so that what two inputs do differently is the inputs' doing.
    """
    unit = centred_unit(features)

    def score(examples: Examples) -> np.ndarray:
        last = sequences.items[examples.end - 1]
        scores = np.where(features.present, np.round(unit[last] @ unit.T, 6), -np.inf)
        scores[np.arange(len(last)), last] = -np.inf
        return scores

    examples = held_out(sequences, "test", 10**9)
    return rank_by_scores(score, examples, examples, sequences, k)[0]


def kept_of(fused: Described, singles: Mapping[str, Described], sequences: Sequences, k: int = 5) -> dict[str, Any]:
    """Return how much of each single modality a fused input keeps, for one row of a table.

    Per modality: `AMI <m>` of first codes; `neighbours <m>`: share of an item's ten nearest that are the same; `hits
    <m>` and `top item <m>`: Jaccard index of the users with a hit@k, and share of users with the same first item, of
    `nearest_to_last`.
    """
    row: dict[str, Any] = {}
    own = nearest_to_last(fused[0], sequences, k)
    for name, (features, code) in singles.items():
        both = fused[0].present & features.present
        known = (fused[1] >= 0) & (code >= 0)
        lists = overlap_of({"fused": own, name: nearest_to_last(features, sequences, k)}, k).iloc[0]
        row[f"AMI {name}"] = adjusted_mutual_information(fused[1][known], code[known])
        near = shared_neighbours(centred_unit(fused[0])[both], centred_unit(features)[both])
        row[f"neighbours {name}"] = near[0]
        row |= {f"hits {name}": lists["jaccard"], f"top item {name}": lists["same_top_item"]}
    return row


def as_weights_move(
    fused: Mapping[float, Described], singles: Mapping[str, Described], sequences: Sequences, k: int = 5
) -> pd.DataFrame:
    """Return `kept_of` fusions by the weight of the first modality, as a long table to draw.

    Columns: weight of <first modality>, measure (AMI, neighbours, hits, top item), of (the modality kept), kept.
    """
    weight = f"weight of {next(iter(singles))}"
    rows = [{weight: w, **kept_of(found, singles, sequences, k)} for w, found in fused.items()]
    long = pd.DataFrame(rows).melt(weight, value_name="kept")
    parts = long.pop("variable").str.rsplit(" ", n=1)
    return long.assign(measure=parts.str[0], of=parts.str[1])[[weight, "measure", "of", "kept"]]
