"""The loss over legal tokens against a slow count of what may follow, by hand, and in a training."""

import math

import numpy as np
import pytest
import reference_generation as reference
import torch

from musicrec_kit.data.splits import Sequences, held_out
from musicrec_kit.generation import tasks
from musicrec_kit.generation.fit import fit_generator
from musicrec_kit.generation.legal_softmax import LegalSoftmax
from musicrec_kit.generation.ranking import Ranker
from musicrec_kit.generation.seq2seq import T5, Shape
from musicrec_kit.ids.semantic_ids import make_ids
from musicrec_kit.ids.vocabulary import Vocabulary
from musicrec_kit.params import GeneratorParams, IdsParams, RankParams, Refused, build
from musicrec_kit.tokenizers import ItemCodes

SHAPE = Shape(dim=16, feed_forward=24, d_kv=8, heads=2, layers=1)


def setting(ids, words=("next", "joint", "align")):
    """Return (vocabulary, tasks, model) of IDs."""
    families = tasks.expand(words, ids.segments)
    every = [task for found in families.values() for family in found for task in family]
    prompts = sum(task.prompt >= 0 for task in every)
    vocabulary = Vocabulary.from_ids(ids, IdsParams(), prompts, 2)
    return vocabulary, every, T5(vocabulary.size, SHAPE).initialise(0)


def all_written(vocabulary, every):
    """Return writing -> its targets, tuples of tokens with eos."""
    found = {}
    for writing in sorted({task.target for task in every}):
        tokens, lengths = tasks.write(vocabulary, writing)
        rows = {(*row[:length].tolist(), 1) for row, length in zip(tokens, lengths, strict=True) if length}
        found[writing] = sorted(rows)
    return found


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_loss_equals_a_slow_count_of_what_may_follow(reduction):
    vocabulary, every, model = setting(reference.random_ids(12, levels=2, size=4))
    written = all_written(vocabulary, every)
    assert len(written) == 3
    family = {row: rows for rows in written.values() for row in rows}
    rows = list(family)[::5]
    width = max(map(len, rows)) + 1  # a column of padding for all
    target = torch.tensor([(*row, *[0] * (width - len(row))) for row in rows])
    source = torch.randint(2, vocabulary.size, (len(rows), 7), generator=torch.Generator().manual_seed(0))
    logits, total, count = model(source, target), torch.zeros(()), 0
    for number, row in enumerate(rows):
        for at, token in enumerate(row):
            rivals = sorted({other[at] for other in family[row] if other[:at] == row[:at]})
            total = total - logits[number, at, rivals].log_softmax(-1)[rivals.index(token)]
            count += 1
    expected = total / count if reduction == "mean" else total
    made = LegalSoftmax(vocabulary, every).loss(model, source, target, reduction)
    torch.testing.assert_close(made, expected)
    for parameter, slow, quick in zip(
        model.parameters(),
        torch.autograd.grad(expected, list(model.parameters()), retain_graph=True),
        torch.autograd.grad(made, list(model.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(quick, slow, atol=1e-6, rtol=1e-4, msg=str(parameter.shape))


@pytest.mark.parametrize("separators", [False, True])
@pytest.mark.parametrize("views", [{"text": ["text"], "image": ["image"]}, {"item": ["text", "image"]}])
def test_every_tasks_items_share_a_chance_of_one_whatever_the_other_tasks(views, separators):
    """As decoding does it: a writing's own tree and nobody else's."""
    codes = {
        name: np.random.default_rng(number).integers(0, 3, (9, 2)) for number, name in enumerate(("text", "image"))
    }
    made = make_ids(ItemCodes(codes, dict.fromkeys(codes, (3, 3))), views, IdsParams(collisions="suffix"), 0)
    families = tasks.expand(("next", "joint", "align"), made.segments)
    every = [task for found in families.values() for family in found for task in family]
    vocabulary = Vocabulary.from_ids(made, IdsParams(separators=separators), sum(t.prompt >= 0 for t in every), 2)
    model, loss = T5(vocabulary.size, SHAPE).initialise(0).eval(), LegalSoftmax(vocabulary, every)
    for writing, rows in all_written(vocabulary, every).items():
        total = 0.0
        for row in rows:
            target = torch.tensor([row])
            total += math.exp(-float(loss.loss(model, torch.tensor([[5, 6, 1]]), target, "sum").detach()))
        assert total == pytest.approx(1, abs=1e-5), writing


def test_a_token_without_a_rival_costs_nothing():
    """Two items, told apart by the first code alone: of three tokens only the first has a choice."""
    ids = reference.make_ids({"main": np.array([[0, 1], [2, 3]])}, 4)
    vocabulary, every, model = setting(ids, ("next",))
    tokens, _ = vocabulary.tokens_of("main")
    target = torch.tensor([[*tokens[0], 1]])
    source = torch.tensor([[int(tokens[1, 0]), 1]])
    logits = model(source, target)[0, 0].detach()
    gap = float(logits[int(tokens[1, 0])] - logits[int(tokens[0, 0])])
    made = LegalSoftmax(vocabulary, every).loss(model, source, target, "sum").detach()
    assert made.item() == pytest.approx(math.log(1 + math.exp(gap)), rel=1e-5)


def test_equals_the_vocabulary_loss_where_nothing_else_can_follow():
    """With all other logits far below, both losses are the same."""
    vocabulary, every, model = setting(reference.random_ids(12, ("main",), levels=2, size=4), ("next",))
    tokens, _ = vocabulary.tokens_of("main")
    target = torch.from_numpy(np.concatenate([tokens, np.ones((len(tokens), 1), np.int64)], axis=1)).long()
    source = target.flip(0)
    loss = LegalSoftmax(vocabulary, every)
    token, there = loss.siblings(target)
    shut = torch.full((*target.shape, vocabulary.size), -1e9)
    shut.scatter_add_(-1, token, torch.where(there, 1e9, 0.0))
    logits = model(source, target) + shut
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum")
    torch.testing.assert_close(loss.loss(model, source, target, "sum"), expected, atol=1e-3, rtol=1e-4)


def test_a_planted_chain_is_learnt_and_ranked_by_the_same_softmax():
    n, history = 10, 2
    starts = np.random.default_rng(0).integers(0, n, 40)
    sequences = Sequences.from_lists([[(s + i) % n for i in range(6)] for s in starts], n)
    params = GeneratorParams(
        backbone="tiny", epochs=30, batch=32, lr=1e-2, dropout=0.0, tasks=("next", "joint"), softmax="legal"
    )
    made = fit_generator(sequences, reference.random_ids(n, levels=2), params, IdsParams(), history)
    assert made.log[-1]["valid"] < 0.1
    ranker = Ranker(made, sequences, RankParams(beam=n))
    assert {source.legal.softmax for source in ranker.sources} == {"legal"}
    found = ranker.rank(held_out(sequences, "test", history), held_out(sequences, "test", 10**9))
    for name in ("text", "image", "joint", "merged", "merged_lse"):
        assert (found[name].target_rank == 1).mean() > 0.95, name
    # a distribution over the items: the chances of all IDs add up to 1
    chances = np.exp(found["text"].scores.astype(np.float64) * 3).sum(axis=1)  # 3 tokens with eos
    np.testing.assert_allclose(chances, 1, atol=1e-4)


def test_decoding_beside_the_tree_of_whole_ids_is_refused():
    with pytest.raises(Refused, match=r"rank\.tree=free"):
        build({"generator": {"softmax": "legal"}, "rank": {"tree": "free"}})
