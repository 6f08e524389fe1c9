"""What a state is asked for: the next item among all, or among drawn ones.

Data in: scores of targets and of negatives. Data out: a mean loss over the targets.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid


def sampled_softmax(
    positive: Float[Tensor, " targets"], negative: Float[Tensor, "targets negatives"]
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of the target among itself and its negatives; -inf for one that does not count."""
    return (torch.cat([positive[:, None], negative], dim=1).logsumexp(dim=1) - positive).mean()


def binary(
    positive: Float[Tensor, " targets"], negative: Float[Tensor, "targets negatives"], power: float = 1.0
) -> Float[Tensor, ""]:
    """Return the mean of -(power log sigma(s+) + sum log(1 - sigma(s-))) / (negatives + 1).

    Power 1 is the binary cross-entropy of SASRec (Kang & McAuley 2018, eq. 7), there with one negative; gBCE (Petrov &
    Macdonald 2023, eq. 11) takes `gbce_power`.
    """
    return -(power * logsigmoid(positive) + logsigmoid(-negative).sum(dim=1)).mean() / (negative.shape[1] + 1)


def gbce_power(n_items: int, negatives: int, calibration: float) -> float:
    """Return beta = alpha (t (1 - 1 / alpha) + 1 / alpha) with alpha = negatives / (items - 1), t the calibration.

    >>> gbce_power(101, 100, 0.75), gbce_power(1001, 100, 0.0), round(gbce_power(1001, 100, 1.0), 6)
    (1.0, 1.0, 0.1)
    """
    alpha = min(1.0, negatives / max(1, n_items - 1))  # more negatives than items are still all items
    return alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)


def uniform(rng: np.random.Generator, rows: int, negatives: int, n_items: int) -> np.ndarray:
    """Return int64 [rows, negatives] drawn from all items, whatever a row's targets are."""
    return rng.integers(n_items, size=(rows, negatives))


def uniform_outside(rng: np.random.Generator, rows: np.ndarray, known: np.ndarray, n_items: int) -> np.ndarray:
    """Return an item per place, int64 [rows, places], drawn evenly from those that are not known to its row.

    Args:
        rows: any array [rows, places]; its shape is that of the draw.
        known: int64 [rows, any], items of each row, of any order and number; n_items and above, and -1, are no items.

    Every place takes one draw: the r-th of the items that are left is r plus the number of known ones before it.
    """
    table = np.sort(np.where(known < 0, n_items, known), axis=1)
    again = np.zeros_like(table, dtype=bool)
    again[:, 1:] = table[:, 1:] == table[:, :-1]
    table = np.sort(np.where(again, n_items, np.minimum(table, n_items)), axis=1)
    count = (table < n_items).sum(axis=1)
    left = n_items - count
    draw = (rng.random(rows.shape) * np.maximum(left, 1)[:, None]).astype(np.int64)
    # known items are sorted: the j-th has table[j] - j free items before it
    free_before = np.where(table < n_items, table - np.arange(table.shape[1]), n_items)
    found = draw + (free_before[:, None, :] <= draw[:, :, None]).sum(axis=2)
    return np.minimum(found, n_items - 1)  # a row that knows every item gets the last one
