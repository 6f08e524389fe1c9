"""Visual tokens, adapters and the frozen backbone."""

import math

import numpy as np
import pytest
import reference_generation as reference
import torch

from musicrec_kit.data.splits import Examples, Sequences, held_out
from musicrec_kit.features.store import Features
from musicrec_kit.generation import seq2seq
from musicrec_kit.generation.fit import Generator, fit_generator
from musicrec_kit.generation.layers import Shape
from musicrec_kit.generation.marks import NO_PICTURE, Marks, Source
from musicrec_kit.generation.ranking import rank
from musicrec_kit.generation.seq2seq import T5
from musicrec_kit.generation.tasks import batches, with_pictures
from musicrec_kit.ids import number_items
from musicrec_kit.params import GeneratorParams, IdsParams, RankParams

SHAPE = Shape(dim=16, feed_forward=24, d_kv=8, heads=2, layers=2)
TINY = GeneratorParams(
    backbone="tiny",
    tasks=("next", "direct"),
    user_tokens=True,
    whole_word=True,
    visual_tokens=2,
    adapters=8,
    epochs=2,
    batch=16,
    lr=3e-3,
)
DIGITS = IdsParams(source="numbers", tie_levels=True)


def pictures(n, width=5, lacking=(), seed=0):
    present = ~np.isin(np.arange(n), lacking)
    matrix = np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)
    return Features("image", np.where(present[:, None], matrix, np.float32(0)), present, "drawn")


@pytest.fixture(scope="module")
def world():
    return reference.random_sequences(9, 30), number_items(30, DIGITS, 0)


def fit(world, params=TINY, folder=None, seed=0, shown=None):
    sequences, ids = world
    return fit_generator(sequences, ids, params, DIGITS, 5, folder, seed, pictures=shown or pictures(30, lacking=[4]))


def both(sequences):
    return held_out(sequences, "test", 5), held_out(sequences, "test", 10**9)


def test_visual_tokens_stand_behind_the_items_own():
    marks = Marks(4, visual=2, pictures=pictures(4, lacking=[2]))
    tokens = np.array([[5, 6], [7, 0], [8, 9], [0, 0]], np.int32)
    found = with_pictures(tokens, np.array([2, 1, 2, 0], np.int32), marks, 99)
    assert found[0].tolist() == [[5, 6, 99, 99], [7, 99, 99, 0], [8, 9, 0, 0], [0, 0, 0, 0]]
    assert found[1].tolist() == [4, 3, 2, 0], "item 2 has no picture, item 3 no ID"
    assert found[2].tolist() == [[-1, -1, 0, 1], [-1, 2, 3, -1], [-1] * 4, [-1] * 4]


def test_sources_by_hand():
    ids = reference.make_ids({"text": np.array([[1, 2], [3, -1], [0, 1]])}, 4)
    sequences = Sequences.from_lists([[1, 0, 2, 1, 0]], 3)
    generator = Generator.untrained(ids, TINY, IdsParams(), 3, users=1, pictures=pictures(3, lacking=[2]))
    store = generator.store(sequences)
    spans = store.spans(generator.tasks("next")[0], held_out(sequences, "test", 3))
    ((source, target),) = batches(store, spans, 1)
    text = generator.vocabulary.text
    # the history 0, 2, 1
    assert (
        text(source.tokens[0].tolist()) == "<user.0><a.1><b.2><picture><picture><a.0><b.1><a.3><picture><picture><eos>"
    )
    assert source.words[0].tolist() == [0, 1, 1, 1, 1, 2, 2, 3, 3, 3, 0]
    assert source.pictures[0].tolist() == [-1, -1, -1, 0, 1, -1, -1, -1, 2, 3, -1]
    assert text(target[0].tolist()) == "<a.1><b.2><eos>", "targets show no pictures"


def test_visual_tokens_by_hand():
    marks = Marks(2, visual=2, pictures=Features("image", np.array([[2.0]], np.float32), np.array([True]), ""))
    with torch.no_grad():
        marks.inner.weight.copy_(torch.tensor([[0.5], [-1.0]]))
        marks.outer.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 2.0]]))
        marks.kinds.weight.copy_(torch.tensor([[0.0, 100.0], [0.0, 1000.0]]))
    a, b = math.tanh(1.0), math.tanh(-2.0)
    known = torch.tensor([a, b, a + b, 2 * b])
    known = (known / known.square().mean().sqrt()).view(2, 2)  # one norm over both tokens
    torch.testing.assert_close(marks.picture(marks.vectors), known[None], atol=1e-5, rtol=1e-5)
    source = Source(torch.tensor([[9, 7, 7, 1]]), torch.zeros(1, 4).long(), torch.tensor([[-1, 1, 0, -1]]))
    made = marks(torch.full((1, 4, 2), 10.0), source)[0]
    torch.testing.assert_close(made[[0, 3]], torch.tensor([[10.0, 110.0]] * 2))
    torch.testing.assert_close(made[[1, 2]], known[[1, 0]] + torch.tensor([0.0, 1000.0]), atol=1e-4, rtol=1e-5)


def test_new_pictures_join_the_others():
    marks = Marks(4, visual=1, pictures=pictures(2, width=3))
    marks.show(np.ones((1, 3), np.float32), np.array([True]), 1)
    marks.show(None, None, 2)
    assert marks.vectors.shape == (5, 3) and marks.present.tolist() == [True, True, True, False, False]
    assert marks.vectors[2].tolist() == [1, 1, 1]


@pytest.mark.parametrize("softmax", ["vocabulary", "legal"])
def test_a_wide_beam_equals_exact_scores(world, softmax):
    made = fit(world, TINY.model_copy(update={"softmax": softmax}))
    assert float(made.model.decoder.layers[0].cross_attention.output.adapter.up.weight.detach().abs().max()) > 0
    params = RankParams(beam=60, batch=4)  # numbers end at any depth, so more are open at once than there are items
    found = rank(made, world[0], *both(world[0]), params)
    exact = rank(made, world[0], *both(world[0]), params.model_copy(update={"exact": True}))
    for name, one in found.items():
        assert np.array_equal(one.items, exact[name].items), name
        np.testing.assert_allclose(one.scores, exact[name].scores, atol=1e-4)


def test_decoding_any_digits_drops_numbers_of_nothing(world):
    found = rank(fit(world), world[0], *both(world[0]), RankParams(beam=20, tree="free"))
    for row in found["main"].items:
        items = row[row >= 0].tolist()
        assert len(set(items)) == len(items)


def test_a_picture_is_read_where_its_item_is_in_the_history(world):
    sequences, _ = world
    made = fit(world)
    examples, whole = both(sequences)
    before = rank(made, sequences, examples, whole, RankParams(beam=60))
    changed = int(sequences.items[examples.end[0] - 1])
    with torch.no_grad():
        made.model.marks.vectors[changed] += 3.0
    after = rank(made, sequences, examples, whole, RankParams(beam=60))
    within = [changed in sequences.items[a:b] for a, b in zip(examples.start, examples.end, strict=True)]
    differs = (before["main"].scores != after["main"].scores).any(axis=1)
    assert within[0] and differs[0] and not (differs & ~np.array(within)).any()
    assert np.array_equal(before["direct"].scores, after["direct"].scores)


def test_saved_and_loaded_is_the_same_and_seeds_decide(world, tmp_path):
    made = fit(world, folder=tmp_path)
    again, other = Generator.load(tmp_path), fit(world, seed=1)
    one, two, three = (rank(g, world[0], *both(world[0]), RankParams(beam=20)) for g in (made, again, other))
    assert all(np.array_equal(one[name].scores, two[name].scores) for name in one)
    assert not np.array_equal(one["main"].scores, three["main"].scores)


def test_adapters_begin_as_nothing():
    adapted = T5(20, Shape(16, 24, 8, 2, 2, adapters=8)).initialise(0).eval()
    plain = T5(20, SHAPE).initialise(0).eval()
    own = adapted.state_dict()
    # two sublayers in each of two encoder layers, three in each of two decoder layers; width 16 / 8
    assert sum(name.endswith("adapter.down.weight") for name in own) == 2 * 2 + 2 * 3
    assert own["encoder.layers.0.feed_forward.narrow.adapter.down.weight"].shape == (2, 16)
    plain.load_state_dict({name: tensor for name, tensor in own.items() if ".adapter." not in name})
    source, target = torch.tensor([[3, 4, 5, 1]]), torch.tensor([[6, 7, 1]])
    assert torch.equal(adapted(source, target), plain(source, target))
    with torch.no_grad():
        adapted.encoder.layers[0].feed_forward.narrow.adapter.up.weight += 0.1
    assert not torch.allclose(adapted(source, target), plain(source, target))


def test_an_adapter_by_hand():
    adapted = T5(5, Shape(2, 3, 2, 1, 1, adapters=2)).initialise(0)
    output = adapted.encoder.layers[0].feed_forward.narrow
    with torch.no_grad():
        output.weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
        output.adapter.down.weight.copy_(torch.tensor([[1.0, 1.0]]))
        output.adapter.up.weight.copy_(torch.tensor([[1.0], [2.0]]))
    gelu = 3 * 0.5 * (1 + math.erf(3 / math.sqrt(2)))
    torch.testing.assert_close(output(torch.tensor([1.0, 2.0, 9.0])), torch.tensor([1 + gelu, 2 + 2 * gelu]))


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_backbone_stays_and_the_rest_moves(world, frozen, tmp_path):
    reference.hf_t5(seq2seq.SHAPES["tiny"], 50).save_pretrained(tmp_path)
    params = TINY.model_copy(update={"pretrained": str(tmp_path), "frozen": frozen})
    start = Generator.untrained(world[1], params, DIGITS, 5, users=9, pictures=pictures(30))
    seq2seq.load_hf_blocks(start.model, tmp_path)
    before, after = start.model.state_dict(), fit(world, params, shown=pictures(30)).model.state_dict()
    still = {name for name in before if torch.equal(before[name], after[name])} - {"marks.vectors", "marks.present"}
    blocks = ("query", "key_value", "widen", "narrow.weight", "output.weight", "position_bias")
    backbone = {name for name in before if any(part in name for part in blocks)}
    assert still == (backbone if frozen else set())


def test_without_a_pretrained_t5_frozen_trains_all(world):
    params = TINY.model_copy(update={"frozen": True})
    before = Generator.untrained(world[1], params, DIGITS, 5, users=9, pictures=pictures(30)).model.state_dict()
    after = fit(world, params, shown=pictures(30)).model.state_dict()
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still == {"marks.vectors", "marks.present"}


def test_unknown_users_read_the_mean_of_the_users_and_no_picture(world):
    made = fit(world)
    rows, size = made.model.embedding.weight, made.vocabulary.size
    assert rows.shape[0] == size + 1 + 9 + 1 and made.vocabulary.picture == size + 10
    torch.testing.assert_close(rows[size], rows[size + 1 : size + 10].mean(dim=0))
    examples, whole = both(world[0])
    nobody = Examples(np.full_like(examples.users, -1), examples.start, examples.end, examples.target)
    strangers = Examples(nobody.users, whole.start, whole.end, whole.target)
    found = rank(made, world[0], nobody, strangers, RankParams(beam=20))
    assert (found["main"].items >= 0).all()
    assert NO_PICTURE == -1


def test_what_only_pictures_tell_is_learnt():
    """The last item's picture says which of two items comes next; its number, new in every history, says nothing."""
    n = 202  # items 0 and 1 follow; each other is the last of one history
    kinds = np.random.default_rng(0).integers(0, 2, n)
    sequences = Sequences.from_lists([[i, kinds[i], i, kinds[i]] for i in range(2, n)], n)
    unseen = sequences.held_out.copy()
    sequences = Sequences(sequences.offsets, sequences.items, np.where(np.arange(n - 2) < 150, 0, unseen), n)
    matrix = np.stack([kinds, 1 - kinds], axis=1).astype(np.float32) * 2
    shown = Features("image", matrix, np.ones(n, bool), "planted")
    params = TINY.model_copy(
        update={"tasks": ("next",), "user_tokens": False, "epochs": 8, "lr": 1e-2, "dropout": 0.0, "softmax": "legal"}
    )
    made = fit_generator(sequences, number_items(n, DIGITS, 0), params, DIGITS, 1, pictures=shown)
    # held-out users: their first item was in no training example's history
    examples = held_out(sequences, "valid", 1)
    last = Examples(examples.users, examples.start - 1, examples.end - 1, kinds[sequences.items[examples.end - 2]])
    found = rank(made, sequences, last, last, RankParams(beam=20))
    assert (found["main"].target_rank == 1).mean() > 0.95
