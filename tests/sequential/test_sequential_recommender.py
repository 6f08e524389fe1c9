"""SASRec: looks back only, does not see padding, learns a planted chain, and never learns from held-out items."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from musicrec_kit import seeds
from musicrec_kit.data.splits import Sequences, held_out
from musicrec_kit.evaluation import metrics
from musicrec_kit.params import CFParams, Refused, SequentialParams
from musicrec_kit.sequential import ItemVectors, Recommender, Sources, fit_item_vectors, fit_recommender
from musicrec_kit.sequential.encoder import Block
from musicrec_kit.sequential.model import Model
from musicrec_kit.sequential.recommender import Batch, loss_of, target_ranks

SHAPE = {"dim": 16, "layers": 1, "heads": 2, "dropout": 0.1, "epochs": 3, "batch": 32, "lr": 0.01}
SMALL, ROW = CFParams(**SHAPE), SequentialParams(**SHAPE)
PLAIN = SequentialParams(dim=8)


def states(model: Model, tokens: list[list[int]]) -> torch.Tensor:
    return model(torch.tensor(tokens), model.catalogue())[0]


def next_item_loss(model: Model, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return loss_of(model, Batch(inputs, targets, None), PLAIN)


@pytest.fixture
def model() -> Model:
    with seeds.torch_seed(0):
        model = Model(PLAIN, 6, Sources(9)).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def chain(users: int, n_items: int = 12, noise: float = 0.0) -> Sequences:
    """After item i comes 5 i + 3 modulo n_items, or with probability `noise` anything."""
    rng = np.random.default_rng(0)
    lists = []
    for _ in range(users):
        items = [int(rng.integers(n_items))]
        for _ in range(int(rng.integers(5, 10))):
            items.append(int(rng.integers(n_items)) if rng.random() < noise else (5 * items[-1] + 3) % n_items)
        lists.append(items)
    return Sequences.from_lists(lists, n_items)


def with_other_targets(sequences: Sequences) -> Sequences:
    """Change every validation and test item."""
    items = np.where(sequences.in_training, sequences.items, (sequences.items + 1) % sequences.n_items)
    return Sequences(sequences.offsets, items.astype(np.int32), sequences.held_out, sequences.n_items)


def test_later_items_do_not_change_earlier_states(model: Model) -> None:
    with torch.no_grad():
        before, after = states(model, [[1, 2, 3, 4, 5]]), states(model, [[1, 2, 3, 8, 0]])
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3:], after[:, 3:])


def test_padding_changes_nothing(model: Model) -> None:
    with torch.no_grad():
        alone = states(model, [[1, 2, 3]])
        filled = states(model, [[1, 2, 3, 9, 9, 9], [4, 5, 6, 7, 8, 0]])
    assert torch.allclose(alone[0], filled[0, :3], atol=1e-6)


def test_scores_do_not_depend_on_the_batch(model: Model) -> None:
    sequences = chain(30, n_items=9)
    examples = held_out(sequences, "test", 10**9)
    score = Recommender(model, PLAIN, Sources(9)).scorer(sequences)
    together = score(examples)
    alone = np.concatenate([score(examples.take(slice(i, i + 1))) for i in range(len(examples))])
    assert together.shape == (30, 9) and np.allclose(together, alone, atol=1e-5)
    ranks = 1 + (together > together[np.arange(30), examples.target][:, None]).sum(axis=1)
    assert np.array_equal(target_ranks(model, sequences, examples), ranks)


def test_block_is_the_formula() -> None:
    """One head written out: softmax(q k / sqrt(d)) over the past, add, norm, GELU layer, add, norm."""
    with seeds.torch_seed(2):
        model = Model(SequentialParams(dim=4, layers=1, heads=1, dropout=0.0), 3, Sources(5))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    encoder = model.encoder
    block = encoder.blocks[0]
    assert isinstance(block, Block)
    attention = block.attention
    with torch.no_grad():
        x = encoder.norm(model.items.own.weight[[3, 1, 4]] + encoder.positions.weight)
        q, k, v = (x @ attention.query_key_value.weight.T + attention.query_key_value.bias).split(4, dim=1)
        weights = (q @ k.T / math.sqrt(4)).masked_fill(torch.ones(3, 3).triu(1).bool(), -math.inf).softmax(dim=1)
        x = block.attention_norm(x + attention.output(weights @ v))
        up, _, down = block.feed_forward
        x = block.feed_forward_norm(x + down(torch.nn.functional.gelu(up(x))))
        assert torch.allclose(states(model, [[3, 1, 4]])[0], x, atol=1e-5)


def test_loss_is_the_mean_over_real_positions(model: Model) -> None:
    """Three targets in two rows: minus the log of the softmax at each, over the nine items, not the padding token."""
    inputs = torch.tensor([[1, 2], [3, 9]])
    targets = torch.tensor([[2, 5], [0, -1]])
    with torch.no_grad():
        total = 0.0
        for row, place, target in ((0, 0, 2), (0, 1, 5), (1, 0, 0)):
            logits = (states(model, inputs.tolist())[row, place] @ model.items.own.weight[:9].T).double()
            total -= float(logits[target] - logits.exp().sum().log())
        assert math.isclose(float(next_item_loss(model, inputs, targets)), total / 3, rel_tol=1e-5)


def test_padding_row_gets_no_gradient(model: Model) -> None:
    next_item_loss(model, torch.tensor([[1, 2], [3, 9]]), torch.tensor([[2, 5], [0, -1]])).backward()
    grad = model.items.own.weight.grad
    assert grad is not None and not grad[9].any()


def test_a_planted_chain_is_learnt() -> None:
    """A tenth of the steps is drawn at random, so .9 + .1 / 12 is the best there is."""
    sequences = chain(400, noise=0.1)
    params = SequentialParams(dim=16, layers=1, heads=2, dropout=0.0, epochs=8, batch=32, lr=0.01)
    plain, no_history = fit_recommender(sequences, params, history=10).rank(sequences, "test", k=5)
    assert metrics.hit(plain.target_rank, 1).mean() > 0.85
    assert len(no_history.target_rank) == 400


def test_vectors_know_nothing_of_held_out_items() -> None:
    sequences = chain(120, noise=0.3)
    one = fit_item_vectors(sequences, SMALL, history=10)
    two = fit_item_vectors(with_other_targets(sequences), SMALL, history=10)
    assert np.array_equal(one.vectors, two.vectors) and np.array_equal(one.present, two.present)
    other = fit_item_vectors(sequences, SMALL, history=10, seed=1)
    assert not np.array_equal(one.vectors, other.vectors)


def test_a_recommender_trains_without_held_out_items() -> None:
    """Validation may choose the epoch; in a single epoch there is nothing to choose."""
    sequences = chain(120, noise=0.3)
    params = ROW.model_copy(update={"epochs": 1})
    models = [fit_recommender(s, params, history=10).model for s in (sequences, with_other_targets(sequences))]
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in models), strict=True))


def test_items_unseen_in_training_are_masked() -> None:
    """Item 5 is only ever a test target, item 6 is in no sequence, item 4 is one user's whole training part."""
    lists = [[0, 1, 2, 3, 0, 1, 5] for _ in range(20)] + [[4, 0, 1]]
    vectors = fit_item_vectors(Sequences.from_lists(lists, n_items=7), SMALL, history=10)
    assert vectors.present.tolist() == [True, True, True, True, False, False, False]
    assert not vectors.vectors[4:].any() and vectors.vectors[:4].any(axis=1).all()


def test_nothing_to_learn_is_refused() -> None:
    with pytest.raises(Refused, match="no user has two items"):
        fit_item_vectors(Sequences.from_lists([[0, 1, 2], [1, 2, 0]]), SMALL, history=10)


def test_a_recommender_and_vectors_come_back(tmp_path: Path) -> None:
    sequences = chain(60)
    recommender = fit_recommender(sequences, ROW, history=10)
    recommender.save(tmp_path)
    examples = held_out(sequences, "test", 10)
    again = Recommender.load(tmp_path)
    assert np.array_equal(recommender.scorer(sequences)(examples), again.scorer(sequences)(examples))
    vectors = ItemVectors(np.ones((3, 2), np.float32), np.array([True, False, True]))
    vectors.save(tmp_path)
    loaded = ItemVectors.load(tmp_path)
    assert np.array_equal(loaded.vectors, vectors.vectors) and np.array_equal(loaded.present, vectors.present)


def test_a_killed_training_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from musicrec_kit import training
    from musicrec_kit.sequential import recommender as module

    sequences = chain(60, noise=0.3)
    whole = fit_recommender(sequences, ROW, history=10).model.state_dict()
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    calls = 0

    def killed(*arguments: object) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return target_ranks(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "target_ranks", killed)
    with pytest.raises(KeyboardInterrupt):
        fit_recommender(sequences, ROW, history=10, folder=tmp_path)
    continued = fit_recommender(sequences, ROW, history=10, folder=tmp_path).model.state_dict()
    assert calls == 4 and all(torch.equal(whole[name], continued[name]) for name in whole)
