"""Beam search over legal IDs, batched over users on the device, without Python per beam.

Notation: users of a batch, beams, branch = moves considered from a beam. The encoder runs once per user; the first step
is one row; a finished ID does not take a beam's place, so a beam as wide as the catalogue scores every item. For IDs of
one length this is Hugging Face's constrained beam search.

Two scores are kept for every ID (lineage.md row 40), and one of them steers:
- lineage: mean log-probability of its tokens and eos under the softmax over the whole vocabulary;
- ours: sum of the log-probabilities of its tokens, each renormalised over its own level's tokens, eos left out.
A model that was trained over the legal tokens alone (`generator.softmax=legal`) has both scores over these.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from musicrec_kit.generation.decoding import Cache, open_cache, step
from musicrec_kit.generation.frozen import Frozen
from musicrec_kit.generation.legal import NOWHERE, Legal, Level
from musicrec_kit.generation.pairs import Pairs
from musicrec_kit.generation.seq2seq import PAD, T5, Memory
from musicrec_kit.ids.vocabulary import EOS

Score = Literal["lineage", "ours"]


class Found(NamedTuple):
    """The best IDs of each user, best first; leaf -1 where an ID is no item's, or where fewer were found (-inf)."""

    leaf: Int[Tensor, "users found"]
    lineage: Float[Tensor, "users found"]
    ours: Float[Tensor, "users found"]

    def of(self, score: Score) -> Float[Tensor, "users found"]:
        """Return the score of that name."""
        return self.lineage if score == "lineage" else self.ours


@dataclass
class _Beams:
    """The open IDs of every user: [users, beams] each, in order of their token paths."""

    tokens: Tensor  # [users beams steps + 1], from PAD on
    state: Tensor
    node: Tensor  # in the tree of whole IDs
    lineage: Tensor  # sum of log-probabilities so far; -inf for an empty place
    ours: Tensor
    ancestors: Tensor  # [users beams steps], slots of the tokens before


class Steps(NamedTuple):
    """The moves from every beam, [users beams branch]; log-probabilities are -inf where there is no move."""

    move: Tensor  # number in `Legal`'s tables
    token: Tensor
    lineage: Tensor
    ours: Tensor


def search(
    model: T5 | Frozen,
    legal: Legal,
    memory: Memory,
    beam: int,
    score: Score = "lineage",
    closed: Pairs | None = None,
    cache: Cache | None = None,
) -> Found:
    """Return the `beam` best legal IDs of every user.

    Equal scores keep the lower token path inside the search, and the lower item number in the result.

    Args:
        model: frozen, or a T5, which is then frozen in fp32.
        closed: nodes that a user's search must not enter (`Legal.closed`).
        cache: an empty one, of `open_cache`; without, it is made here.
    """
    return watched_search(model, legal, memory, beam, score, closed, None, cache)[0]


def capacity(legal: Legal, beam: int) -> int:
    """Return how many slots a search needs."""
    return 1 + beam * (len(legal.levels) - 1)


def watched_search(
    model: T5 | Frozen,
    legal: Legal,
    memory: Memory,
    beam: int,
    score: Score,
    closed: Pairs | None,
    watch: Pairs | None,
    cache: Cache | None = None,
) -> tuple[Found, Bool[Tensor, " users"]]:
    """Search as `search` does and say also for which users any kept beam entered a node of `watch`.

    A user whose beams never do has the same result with these nodes closed.
    """
    found, _, entered = _search(model, legal, memory, beam, score, closed, watch, cache)
    return found, entered


def written_search(
    model: T5 | Frozen, legal: Legal, memory: Memory, beam: int, score: Score = "lineage"
) -> tuple[Found, Int[Tensor, "users found depth"]]:
    """Search as `search` does and return the IDs' tokens, too, padded behind eos: also of IDs that no item has."""
    found, tokens, _ = _search(model, legal, memory, beam, score)
    return found, tokens


def _search(
    model: T5 | Frozen,
    legal: Legal,
    memory: Memory,
    beam: int,
    score: Score,
    closed: Pairs | None = None,
    watch: Pairs | None = None,
    cache: Cache | None = None,
) -> tuple[Found, Tensor, Tensor]:
    """Return the best IDs, their tokens, and whose beams entered a node of `watch`."""
    users, device, model = memory.hidden.shape[0], memory.hidden.device, Frozen.of(model)
    cache = open_cache(model, memory, capacity(legal, beam)) if cache is None else cache
    zero = torch.zeros(users, 1, dtype=torch.long, device=device)
    beams = _Beams(zero[..., None] + PAD, zero, zero.clone(), zero.float(), zero.float(), zero[..., None][..., :0])
    entered = torch.zeros(users, dtype=torch.bool, device=device)
    finished: list[Found] = []
    written: list[Tensor] = []
    for depth, level in enumerate(legal.levels):
        hidden = step(model, cache, beams.tokens[..., -1], beams.ancestors)
        steps = expand(model, legal, level, beams.state, beams.node, hidden, closed)
        if level.ends:
            finished.append(_finish(legal, beams, steps, depth + 1))
            eos = functional.pad(beams.tokens[..., 1:], (0, 1), value=EOS)
            written.append(functional.pad(eos, (0, len(legal.levels) - depth - 1), value=PAD))
            entered |= _inside(watch, finished[-1].leaf, finished[-1].lineage)
        if not level.continues or depth + 1 == len(legal.levels):
            break
        beams = _advance(legal, beams, steps, beam, score, cache.used)
        entered |= _inside(watch, beams.node, beams.lineage)
    found, order = _best(legal, finished, beam, score)
    tokens = torch.cat(written, dim=1)
    return found, tokens.gather(1, order[..., None].expand(-1, -1, tokens.shape[-1])), entered


def expand(
    model: Frozen, legal: Legal, level: Level, state: Tensor, node: Tensor, hidden: Tensor, closed: Pairs | None
) -> Steps:
    """Return the moves from every beam and their log-probabilities."""
    offset = torch.arange(level.branch, device=state.device)
    move = (legal.first[state][..., None] + offset).clamp_(max=len(legal.token) - 1)
    token, allowed = legal.token[move], offset < legal.count[state][..., None]
    first, stop = level.range
    logits, mass = model.logits(hidden, first, stop, whole=legal.softmax == "vocabulary")
    # what is no move of this beam may be a token of another level
    chosen = logits.gather(-1, (token - first).clamp_(0, stop - first - 1))
    if mass is None:
        mass = chosen.masked_fill(~allowed, -torch.inf).logsumexp(-1, keepdim=True)
        lineage = level_score = chosen - mass
    else:
        lineage = chosen - mass
        level_score = chosen - _level_mass(model, logits, token, level) if legal.renormalised else lineage
    ours = torch.where(token == EOS, 0.0, level_score) if level.ends else level_score
    if closed is not None:
        allowed &= ~closed.hold(_nodes(legal, node[..., None].expand_as(token), move))
    return Steps(move, token, lineage.masked_fill(~allowed, -torch.inf), ours.masked_fill(~allowed, -torch.inf))


def _nodes(legal: Legal, node: Tensor, move: Tensor) -> Tensor:
    """Return where moves from nodes lead in the tree of whole IDs."""
    return legal.state[move] if legal.same else legal.walk(node, legal.token[move])


def _level_mass(model: Frozen, logits: Tensor, token: Tensor, level: Level) -> Tensor:
    """Return the log of the summed exp of the logits, those of the level's range, of each token's own block."""
    mass, start = torch.zeros((), device=logits.device), level.range[0]
    for first, stop in level.blocks:
        block = model.mass(logits[..., first - start : stop - start])
        mass = block if len(level.blocks) == 1 else torch.where((token >= first) & (token < stop), block, mass)
    return mass


def _finish(legal: Legal, beams: _Beams, steps: Steps, length: int) -> Found:
    """Return every beam closed by eos, which is the lowest token and so the first move of a beam that can end."""
    ends = steps.token[..., 0] == EOS
    lineage = (beams.lineage + steps.lineage[..., 0]).masked_fill(~ends, -torch.inf) / length
    ours = (beams.ours + steps.ours[..., 0]).masked_fill(~ends, -torch.inf)
    return Found(_nodes(legal, beams.node, steps.move[..., 0]), lineage, ours)


def _advance(legal: Legal, beams: _Beams, steps: Steps, beam: int, score: Score, used: int) -> _Beams:
    """Return the best open continuations, again in order of their token paths."""
    goes_on = steps.token != EOS
    lineage = (beams.lineage[..., None] + steps.lineage).masked_fill(~goes_on, -torch.inf).flatten(1)
    ours = (beams.ours[..., None] + steps.ours).masked_fill(~goes_on, -torch.inf).flatten(1)
    chosen = top_places(lineage if score == "lineage" else ours, beam)
    branch, n_before = steps.token.shape[-1], beams.tokens.shape[1]
    parent = chosen // branch
    ancestors, tokens = (
        path.gather(1, parent[..., None].expand(-1, -1, path.shape[-1])) for path in (beams.ancestors, beams.tokens)
    )
    slot, move = used - n_before + parent, steps.move.flatten(1).gather(1, chosen)
    return _Beams(
        tokens=torch.cat([tokens, legal.token[move][..., None]], dim=-1),
        state=legal.state[move],
        node=_nodes(legal, beams.node.gather(1, parent), move),
        lineage=lineage.gather(1, chosen),
        ours=ours.gather(1, chosen),
        ancestors=torch.cat([ancestors, slot[..., None]], dim=-1),
    )


def top_places(scores: Float[Tensor, "rows places"], k: int) -> Int[Tensor, "rows kept"]:
    """Return the places of the k highest scores in ascending order; of equal scores the lower places.

    torch.topk leaves the choice among equals open, so places are made part of the key: the bits of a float, read as an
    integer and turned for negative numbers, sort like the float.

    >>> top_places(torch.tensor([[1.0, 2.0, 2.0, 2.0, -3.0]]), 2).tolist()
    [[1, 2]]
    """
    places = scores.shape[1]
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 makes -0.0 and 0.0 one
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    key = (ordered << 32) | torch.arange(places - 1, -1, -1, device=scores.device)
    kept = key.topk(min(k, places), dim=1, sorted=False).values
    return (places - 1 - (kept & 0xFFFFFFFF)).sort(dim=1).values


def _inside(watch: Pairs | None, node: Tensor, total: Tensor) -> Tensor:
    """Return bool [users]: whether any live row stands at a watched node."""
    if watch is None:
        return torch.zeros(len(node), dtype=torch.bool, device=node.device)
    return (watch.hold(node) & torch.isfinite(total)).any(dim=1)


def _best(legal: Legal, finished: list[Found], beam: int, score: Score) -> tuple[Found, Tensor]:
    """Return the `beam` best of all finished IDs, and their places among these; ties as in `ordered_by`."""
    found = Found(*(torch.cat(parts, dim=1) for parts in zip(*finished, strict=True)))
    leaf = torch.where(torch.isfinite(found.lineage), found.leaf, NOWHERE)
    found = Found(leaf, found.lineage, found.ours)
    order = _order(found, legal, score)[:, :beam]
    return Found(*(part.gather(1, order) for part in found)), order


def ordered_by(found: Found, legal: Legal, beam: int, score: Score) -> Found:
    """Return the IDs ordered by a score, best first, at most `beam`; equal scores by the leaf's lowest item number."""
    order = _order(found, legal, score)[:, :beam]
    return Found(*(part.gather(1, order) for part in found))


def _order(found: Found, legal: Legal, score: Score) -> Int[Tensor, "users found"]:
    first = legal.tree.leaf_first[found.leaf.clamp(min=0)].clamp(max=max(0, len(legal.tree.leaf_items) - 1))
    item = torch.where(found.leaf == NOWHERE, len(legal.tree.leaf_items), legal.tree.leaf_items[first])
    by_item = item.argsort(dim=1, stable=True)
    return by_item.gather(1, found.of(score).gather(1, by_item).argsort(dim=1, descending=True, stable=True))
