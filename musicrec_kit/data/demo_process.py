"""The process behind the demo data ("ours"): which item a shopper takes next, and the best that anyone can predict.

Shoppers follow a first-order Markov chain. For the last item i and an item j != i,

    kernel(j | i) = randomness / (items - 1)
                  + (1 - randomness) * [copurchase * partner(j | i) + (1 - copurchase) * likeness(j | i)]
    likeness(j | i) ~ exp(text_weight [same purpose] + image_weight [same colour] + shared_weight [same kind])

and no shopper takes an item twice: items of the history get probability 0 and the rest is scaled to sum to 1.
Partners are three random items of every item, unrelated to its properties: only the shoppers' behaviour tells them.

The purpose shows only in the text, the colour only in the picture, the kind in both (`visible_properties`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from musicrec_kit import seeds
from musicrec_kit.params import DemoParams

PARTNER_WEIGHTS = np.array([0.5, 0.3, 0.2])
CUTOFFS = (1, 5, 10, 20)
SHORTEST = 5
USERS_AT_ONCE = 256
PATTERN_SHARES = (0.4, 0.15, 0.15, 0.15, 0.15)  # most plain; patterns are no part of the process
MATERIALS_PER_KIND = 3


@dataclass(frozen=True)
class World:
    """Everything that is fixed before the first shopper comes.

    Attributes:
        properties: property -> int64[items]. kind, purpose and colour decide the process, pattern and material do not.
        partners: int64[items, 3], the items bought together with an item, in the order of PARTNER_WEIGHTS.
    """

    params: DemoParams
    properties: dict[str, np.ndarray]
    partners: np.ndarray

    @property
    def groups(self) -> np.ndarray:
        """Return int64[items]: one number per combination of kind, purpose and colour."""
        return self.signature(("kind", "purpose", "colour"))

    def signature(self, visible: tuple[str, ...]) -> np.ndarray:
        """Return int64[items]: one number per combination of the visible properties."""
        columns = [self.properties[name] for name in visible]
        if not columns:
            return np.zeros(self.params.items, dtype=np.int64)
        return np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)[1].reshape(-1)


def visible_properties(params: DemoParams) -> dict[str, tuple[str, ...]]:
    """Return modality -> the properties of the process that it shows; shuffled pictures tell nothing of their item."""
    everything = ("kind", "purpose", "colour")
    text = everything if params.all_shared else ("kind", "purpose")
    image = everything if params.all_shared else ("kind", "colour")
    return {"text": text, "image": () if params.shuffled_pictures else image}


def make_world(params: DemoParams) -> World:
    """Draw properties and partners; combinations of kind, purpose and colour occur equally often, give or take one."""
    rng = seeds.generator(params.seed, "demo", "properties")
    shape = (params.kinds, params.purposes, params.colours)
    rounds = -(-params.items // int(np.prod(shape)))
    combinations = np.concatenate([rng.permutation(int(np.prod(shape))) for _ in range(rounds)])[: params.items]
    kind, purpose, colour = np.unravel_index(rng.permutation(combinations), shape)
    properties = {
        "kind": kind,
        "purpose": purpose,
        "colour": colour,
        "pattern": rng.choice(len(PATTERN_SHARES), size=params.items, p=PATTERN_SHARES),
        "material": rng.integers(MATERIALS_PER_KIND, size=params.items),
    }
    return World(params, properties, _draw_partners(params.items, seeds.generator(params.seed, "demo", "partners")))


def _draw_partners(items: int, rng: np.random.Generator) -> np.ndarray:
    """Return int64[items, 3]: distinct other items; draws with a repeat are drawn again."""
    partners = np.zeros((items, len(PARTNER_WEIGHTS)), dtype=np.int64)
    left = np.arange(items)
    while len(left):
        # a shift of 1 .. items - 1 never gives the item itself
        partners[left] = (left[:, None] + rng.integers(1, items, size=(len(left), partners.shape[1]))) % items
        ordered = np.sort(partners[left], axis=1)
        left = left[(ordered[:, 1:] == ordered[:, :-1]).any(axis=1)]
    return partners


def likeness_between(world: World, visible: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the likeness that someone who sees only `visible` expects, averaged over items that look identical.

    Returns:
        signatures int64[items], and float64[signatures, signatures]: for an item i of row s and another item j of
        column t, the mean of likeness(j' | i') over all pairs of different items i' like i and j' like j.
    """
    params, groups, signature = world.params, world.groups, world.signature(visible)
    _, first, count = np.unique(groups, return_index=True, return_counts=True)
    log_odds = np.zeros((len(first), len(first)))
    weights = {"purpose": params.text_weight, "colour": params.image_weight, "kind": params.shared_weight}
    for name, weight in weights.items():
        values = world.properties[name][first]
        log_odds += weight * (values[:, None] == values[None, :])
    odds = np.exp(log_odds)
    likeness = odds / (odds @ count - odds[0, 0])[:, None]  # an item is not its own successor
    pairs = count[:, None] * count[None, :] - np.diag(count)
    member = np.zeros((signature.max() + 1, len(first)))
    member[signature[first], np.arange(len(first))] = 1
    total, n_pairs = member @ (likeness * pairs) @ member.T, member @ pairs @ member.T
    return signature, np.divide(total, n_pairs, out=np.zeros_like(total), where=n_pairs > 0)


class Kernel:
    """kernel(j | i), known exactly or as far as the visible properties tell it."""

    def __init__(self, world: World, visible: tuple[str, ...] = ("kind", "purpose", "colour")) -> None:
        self.world = world
        self.signature, self.likeness = likeness_between(world, visible)

    def rows(self, last: np.ndarray) -> np.ndarray:
        """Return float64[n, items]: the chances of the next items after `last` int64[n], history not masked."""
        params, row = self.world.params, np.arange(len(last))
        ordered = (1 - params.randomness) * params.copurchase
        alike = (1 - params.randomness) * (1 - params.copurchase)
        chances = alike * self.likeness[self.signature[last]][:, self.signature]
        chances += params.randomness / (params.items - 1)
        for place, weight in enumerate(PARTNER_WEIGHTS):
            chances[row, self.world.partners[last, place]] += ordered * weight
        chances[row, last] = 0
        return chances


def _mask(chances: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Set seen items to 0 and scale rows to sum 1, in place; a row with no chance left is uniform over the unseen."""
    chances[seen] = 0
    empty = chances.sum(axis=1) <= 0
    chances[empty] = ~seen[empty]
    chances /= chances.sum(axis=1, keepdims=True)
    return chances


def _draw(chances: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Return int64[n]: a column per row of chances float64[n, items], by the inverse of its cumulative sum."""
    cumulative = np.cumsum(chances, axis=1)
    drawn = (cumulative <= (uniform * cumulative[:, -1])[:, None]).sum(axis=1)
    return drawn.astype(np.int64)


def draw_sequences(world: World) -> list[np.ndarray]:
    """Return the items of each shopper, int64: 5 + a geometric number, the first by a mild Zipf law (exponent 1/2)."""
    params = world.params
    rng = seeds.generator(params.seed, "demo", "shoppers")
    extra = rng.geometric(1 / (1 + params.mean_length - SHORTEST), size=params.users) - 1
    lengths = np.minimum(SHORTEST + extra, max(SHORTEST, params.items // 2))
    uniform = rng.random((params.users, lengths.max()))
    popularity = (1 + rng.permutation(params.items)) ** -0.5
    kernel = Kernel(world)
    sequences: list[np.ndarray] = []
    for start in range(0, params.users, USERS_AT_ONCE):
        part = slice(start, start + USERS_AT_ONCE)
        sequences += _draw_part(kernel, lengths[part], uniform[part], popularity / popularity.sum())
    return sequences


def _draw_part(kernel: Kernel, lengths: np.ndarray, uniform: np.ndarray, popularity: np.ndarray) -> list[np.ndarray]:
    """Walk some shoppers through the chain, all at once, one step at a time."""
    taken = np.full((len(lengths), lengths.max()), -1, dtype=np.int64)
    seen = np.zeros((len(lengths), len(popularity)), dtype=bool)
    taken[:, 0] = _draw(np.tile(popularity, (len(lengths), 1)), uniform[:, 0])
    seen[np.arange(len(lengths)), taken[:, 0]] = True
    for step in range(1, lengths.max()):
        active = np.flatnonzero(lengths > step)
        chances = _mask(kernel.rows(taken[active, step - 1]), seen[active])
        taken[active, step] = _draw(chances, uniform[active, step])
        seen[active, taken[active, step]] = True
    return [row[:length] for row, length in zip(taken, lengths, strict=True)]


def ceilings(world: World, sequences: list[np.ndarray]) -> dict[str, dict[str, float]]:
    """Return predictor -> metric -> the expected HR@k and NDCG@k of the best predictors of the shoppers' last items.

    The history before each last item is given and the target is the chain's next draw, so the values are exact
    expectations, not counts of hits. A predictor knows the process, the partners, and of every item the properties that
    it sees; where it does not see one, it averages over the items that look identical (`likeness_between`), and it
    orders equal chances at random. All mask the history, since nothing is taken twice: a predictor that knows the
    process gets the same plain and `/no_history`, so there is one set of numbers per predictor. Predictors: `both`,
    `text`, `image`; `copurchase` sees no property; `popularity` counts the training part; `random`.

    A modality's ceiling bounds what its *content* gives. A method that learns hidden properties from other shoppers'
    sequences (an embedding per item) may pass it; nothing passes `both`, save by luck of the draw.
    """
    shown = visible_properties(world.params)
    kernels = {"both": Kernel(world)} | {name: Kernel(world, visible) for name, visible in shown.items()}
    kernels["copurchase"] = Kernel(world, ())
    counts = np.bincount(np.concatenate([items[:-2] for items in sequences]), minlength=world.params.items).astype(
        float
    )
    gains = {name: np.zeros(max(CUTOFFS)) for name in [*kernels, "popularity", "random"]}
    for last, seen in _histories(world, sequences):
        truth = _mask(kernels["both"].rows(last), seen)
        for name in gains:
            if name in kernels:
                scores = kernels[name].rows(last)
            else:
                scores = np.tile(counts if name == "popularity" else np.zeros_like(counts), (len(last), 1))
            scores[seen] = -1
            gains[name] += expected_hits_by_rank(scores, truth, max(CUTOFFS)).sum(axis=0)
    return {name: _metrics(gain / len(sequences)) for name, gain in gains.items()}


def _histories(world: World, sequences: list[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (last item int64[n], seen bool[n, items]) of the test queries, some shoppers at once."""
    for start in range(0, len(sequences), USERS_AT_ONCE):
        histories = [items[:-1] for items in sequences[start : start + USERS_AT_ONCE]]
        seen = np.zeros((len(histories), world.params.items), dtype=bool)
        for row, items in enumerate(histories):
            seen[row, items] = True
        yield np.array([items[-1] for items in histories]), seen


def expected_hits_by_rank(scores: np.ndarray, truth: np.ndarray, k: int) -> np.ndarray:
    """Return float64[n, k]: the chance that the target stands at rank 1 .. k when equal scores are ordered at random.

    Args:
        scores: float64[n, items], higher is better; equal up to 1e-9 of the row's best is equal.
        truth: float64[n, items], the true chances of the targets.
    """
    best = scores.max(axis=1, keepdims=True)
    rounded = np.round(scores / np.where(best > 0, best, 1) * 1e9)
    width = min(k, scores.shape[1])
    columns = np.argpartition(-rounded, width - 1, axis=1)[:, :width]
    columns = np.take_along_axis(columns, np.argsort(-np.take_along_axis(rounded, columns, axis=1), axis=1), axis=1)
    listed = np.take_along_axis(rounded, columns, axis=1)
    starts = np.ones(listed.shape, dtype=bool)
    starts[:, 1:] = listed[:, 1:] != listed[:, :-1]
    tie = np.cumsum(starts.reshape(-1)) - 1
    mean = np.bincount(tie, weights=np.take_along_axis(truth, columns, axis=1).reshape(-1)) / np.bincount(tie)
    # the last tie of a row may go on below the list
    tied = rounded == listed[:, -1:]
    mean[tie.reshape(listed.shape)[:, -1]] = (truth * tied).sum(axis=1) / tied.sum(axis=1)
    hits = np.zeros((len(scores), k))
    hits[:, :width] = mean[tie].reshape(listed.shape)
    return hits


def _metrics(gain: np.ndarray) -> dict[str, float]:
    """Return HR and NDCG at every cutoff from float64[k], the chances of the target at each rank."""
    discounted = gain / np.log2(np.arange(len(gain)) + 2)
    result = {f"hr@{k}": float(gain[:k].sum()) for k in CUTOFFS}
    return result | {f"ndcg@{k}": float(discounted[:k].sum()) for k in CUTOFFS}
