"""What sources are told besides their tokens: the user, and which item a token belongs to."""

import numpy as np
import pytest
import reference_generation as reference
import torch

from musicrec_kit.data.splits import Examples, Sequences, held_out, train_prefixes
from musicrec_kit.generation.fit import Generator, fit_generator
from musicrec_kit.generation.marks import NO_PICTURE, Marks, Source
from musicrec_kit.generation.ranking import rank
from musicrec_kit.generation.seq2seq import T5, Shape
from musicrec_kit.generation.tasks import TokenStore, batches
from musicrec_kit.params import GeneratorParams, IdsParams, RankParams

SHAPE = Shape(dim=16, feed_forward=24, d_kv=8, heads=2, layers=1)
TINY = GeneratorParams(
    backbone="tiny", tasks=("next", "direct"), user_tokens=True, whole_word=True, epochs=2, batch=16, prompt_tokens=2
)
# items 0 to 3: two tokens, one, none, three
CODES = np.array([[1, 2, -1], [3, -1, -1], [-1, -1, -1], [0, 1, 2]])


def small(params=TINY, users=2, **more):
    ids = reference.make_ids({"text": CODES}, 4)
    sequences = Sequences.from_lists([[1, 0, 2, 3, 1, 0], [3, 1, 0, 3]], 4)
    return Generator.untrained(ids, params, IdsParams(), 3, users=users, **more), sequences


def marked(tokens, words):
    return Source(tokens, words, torch.full_like(tokens, NO_PICTURE))


def test_sources_by_hand():
    generator, sequences = small()
    vocabulary = generator.vocabulary
    store = generator.store(sequences)
    examples = held_out(sequences, "test", 3)
    (following,), (direct,) = generator.tasks("next"), generator.tasks("direct")
    made = {}
    for task in (following, direct):
        spans = store.spans(task, examples)
        ((source, target),) = batches(store, spans, 8)
        assert isinstance(source, Source)
        texts = [vocabulary.text(row.tolist()) for row in source.tokens]
        made[task.name] = sorted(zip(texts, source.words.tolist(), map(vocabulary.text, target.tolist()), strict=True))
        assert store.source_widths(spans).max() == source.tokens.shape[1]
    # user 0 has had 1, 0, 2, 3, 1: of the last three, 2 has no ID; user 1 has had 3, 1, 0
    assert made["next/text"] == [
        ("<user.0><a.0><b.1><c.2><a.3><eos>", [0, 1, 1, 1, 2, 0, 0, 0], "<a.1><b.2><eos>"),
        ("<user.1><a.0><b.1><c.2><a.3><a.1><b.2><eos>", [0, 1, 1, 1, 2, 3, 3, 0], "<a.0><b.1><c.2><eos>"),
    ]
    assert made["direct/text"] == [
        ("<user.0><eos>", [0, 0], "<a.1><b.2><eos>"),
        ("<user.1><eos>", [0, 0], "<a.0><b.1><c.2><eos>"),
    ]


def test_unknown_users_share_a_token_and_alignment_names_nobody():
    views = {"text": CODES, "image": CODES[::-1].copy()}
    params = TINY.model_copy(update={"tasks": ("next", "align", "direct")})
    generator = Generator.untrained(reference.make_ids(views, 4), params, IdsParams(), 3, users=5)
    sequences = Sequences.from_lists([[1, 0, 3, 1], [0, 1, 3, 0]], 4)
    examples = Examples(np.array([4, -1, 5]), np.zeros(3, int), np.full(3, 2), np.full(3, 3, np.int32))
    store, size = generator.store(sequences), generator.vocabulary.size
    (task, *_), (align, *_) = generator.tasks("direct"), generator.tasks("align")
    assert store.spans(task, examples).user.tolist() == [size + 5, size, size]
    assert (store.spans(align, None).user == -1).all()
    rows = store.on_device(store.spans(align, None).take(np.array([0])))
    source = store.sources(rows, 6)
    assert generator.vocabulary.text(source.tokens[0].tolist()) == "<task:0.0><task:0.1><a.1><b.2><eos>"
    assert source.words[0].tolist() == [0, 0, 1, 1, 0, 0], "the words of a prompt belong to no item"


def test_whole_words_are_added_to_the_rows():
    marks = Marks(2, 3)
    with torch.no_grad():
        marks.words.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]))
    source = marked(torch.tensor([[9, 7, 7, 1]]), torch.tensor([[0, 1, 2, 0]]))
    rows = torch.full((1, 4, 2), 10.0)
    assert marks(rows, source).tolist() == [[[10, 10], [11, 10], [10, 11], [10, 10]]]


def test_zero_whole_words_change_nothing_and_others_tell_items_apart():
    model = T5(12, SHAPE, marks=Marks(16, 4)).initialise(0).eval()
    plain = T5(12, SHAPE).initialise(0).eval()
    plain.load_state_dict({n: t for n, t in model.state_dict().items() if not n.startswith("marks.")})
    tokens, words = torch.tensor([[3, 4, 3, 4, 1, 0]]), torch.tensor([[1, 1, 2, 2, 0, 0]])
    same = model.encode(marked(tokens, words)).hidden
    assert not torch.allclose(same, plain.encode(tokens).hidden)
    torch.nn.init.zeros_(model.marks.words.weight)
    assert torch.equal(model.encode(marked(tokens, words)).hidden, plain.encode(tokens).hidden)


def test_users_are_read_and_never_written():
    generator, sequences = small()
    model, size = generator.model, generator.vocabulary.size
    assert model.embedding.weight.shape[0] == size + 3 and generator.vocabulary.name(size + 2) == "<user.1>"
    assert model.logits(torch.zeros(1, 32)).shape[-1] == size
    examples = held_out(sequences, "test", 3)
    free = rank(generator, sequences, examples, examples, RankParams(beam=5, tree="free"))
    assert set(free) == {"main", "direct", "main/no_history", "direct/no_history"}


@pytest.mark.parametrize("softmax", ["vocabulary", "legal"])
@pytest.mark.parametrize("score", ["lineage", "ours"])
def test_a_wide_beam_equals_exact_scores(softmax, score):
    ids = reference.random_ids(30, ("text",))
    sequences = reference.random_sequences(9, 30)
    params = TINY.model_copy(update={"softmax": softmax})
    made = fit_generator(sequences, ids, params, IdsParams(), 5)
    examples, full = held_out(sequences, "test", 5), held_out(sequences, "test", 10**9)
    wide = RankParams(beam=30, score=score, batch=4)
    found = rank(made, sequences, examples, full, wide)
    exact = rank(made, sequences, examples, full, wide.model_copy(update={"exact": True}))
    for name, one in found.items():
        assert np.array_equal(one.items, exact[name].items), name
        np.testing.assert_allclose(one.scores, exact[name].scores, atol=1e-4)


def test_direct_lists_know_the_user_and_not_the_history():
    ids, sequences = reference.random_ids(30, ("text",)), reference.random_sequences(9, 30)
    made = fit_generator(sequences, ids, TINY, IdsParams(), 5)
    examples = held_out(sequences, "test", 5)
    shorter = Examples(examples.users, examples.end - 1, examples.end, examples.target)
    one, other = (rank(made, sequences, e, e, RankParams(beam=30)) for e in (examples, shorter))
    assert np.array_equal(one["direct"].scores, other["direct"].scores)
    assert not np.array_equal(one["main"].scores, other["main"].scores)
    nobody = Examples(np.full_like(examples.users, -1), examples.start, examples.end, examples.target)
    unknown = rank(made, sequences, nobody, nobody, RankParams(beam=30))
    assert (unknown["direct"].items == unknown["direct"].items[0]).all()
    assert not np.array_equal(unknown["direct"].scores, one["direct"].scores)
    rows = made.model.embedding.weight[made.vocabulary.size :]
    torch.testing.assert_close(rows[0], rows[1:].mean(dim=0))


def test_saved_and_loaded_is_the_same(tmp_path):
    ids, sequences = reference.random_ids(30, ("text",)), reference.random_sequences(9, 30)
    made = fit_generator(sequences, ids, TINY, IdsParams(), 5, tmp_path)
    again = Generator.load(tmp_path)
    assert again.vocabulary.users == 9
    examples = held_out(sequences, "test", 5)
    one, other = (rank(g, sequences, examples, examples, RankParams(beam=10)) for g in (made, again))
    assert all(np.array_equal(one[name].scores, other[name].scores) for name in one)


def test_every_prefix_is_an_example_of_both_tasks():
    generator, sequences = small()
    store = generator.store(sequences)
    examples = train_prefixes(sequences, 3)
    counts = {w: int(store.spans(generator.tasks(w)[0], examples).usable.sum()) for w in ("next", "direct")}
    # user 0 trains on 1, 0, 2, 3 and user 1 on 3, 1; item 2, which has no ID, is nobody's target
    assert counts == {"next": 3, "direct": 3}


def test_direct_needs_user_tokens():
    with pytest.raises(ValueError, match=r"generator\.user_tokens=true"):
        GeneratorParams(tasks=("next", "direct"))


def test_without_marks_sources_are_plain_tokens():
    generator, sequences = small(GeneratorParams(backbone="tiny", tasks=("next",)), users=0)
    store = generator.store(sequences)
    assert isinstance(store, TokenStore)
    ((source, _),) = batches(store, store.spans(generator.tasks("next")[0], held_out(sequences, "test", 3)), 8)
    assert isinstance(source, torch.Tensor)


def test_a_planted_chain_and_planted_tastes_are_learnt():
    """Item i is followed by i + 1 of the user's own three items: the history tells which one, the user which three."""
    n_users, n_items = 30, 12
    groups = [(3 * (user % 4) + (np.arange(8) + user) % 3).tolist() for user in range(n_users)]
    sequences = Sequences.from_lists(groups, n_items)
    params = TINY.model_copy(update={"epochs": 16, "lr": 1e-2, "dropout": 0.0, "softmax": "legal"})
    made = fit_generator(sequences, reference.random_ids(n_items, ("text",), levels=2), params, IdsParams(), 4)
    examples, full = held_out(sequences, "test", 4), held_out(sequences, "test", 10**9)
    found = rank(made, sequences, examples, full, RankParams(beam=6))
    assert (found["main"].target_rank == 1).mean() > 0.95
    assert ((found["direct"].target_rank >= 1) & (found["direct"].target_rank <= 3)).mean() > 0.95
