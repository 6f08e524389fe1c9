"""Beam search against brute force and against Hugging Face's constrained generate."""

import numpy as np
import pytest
import reference_generation as reference
import torch

from musicrec_kit.generation import beam_search, decoding, exact, seq2seq, tasks
from musicrec_kit.generation.beam_search import search
from musicrec_kit.generation.legal import make_legal
from musicrec_kit.generation.seq2seq import T5, Shape
from musicrec_kit.ids import collisions, number_items
from musicrec_kit.ids.vocabulary import Vocabulary
from musicrec_kit.params import IdsParams
from musicrec_kit.tokenizers.clusters import grow

SHAPE = Shape(dim=16, feed_forward=24, d_kv=8, heads=2, layers=2)


def setting(ids, writing=None, tree="joint", seed=0, spread=1.0, users=5, softmax="vocabulary", **params):
    """Return (model, vocabulary, legal, memory) with random sources of different lengths."""
    vocabulary = Vocabulary.from_ids(ids, IdsParams(**params))
    model = T5(vocabulary.size, SHAPE).initialise(seed).eval().requires_grad_(False)
    model.embedding.weight.mul_(spread)
    source = torch.randint(2, vocabulary.size, (users, 9), generator=torch.Generator().manual_seed(seed))
    for row in range(users):
        source[row, 4 + row % 6 :] = 0
    legal = make_legal(vocabulary, writing or tuple(ids.views), tree, softmax=softmax)
    return model, vocabulary, legal, model.encode(source)


def brute_force(model, vocabulary, writing, memory):
    """Return (lineage, ours) [users, items]: each item's own tokens through the plain decoder, one item at a time."""
    tokens, lengths = vocabulary.joined(writing)
    users = len(memory.hidden)
    lineage = torch.full((users, len(tokens)), -torch.inf)
    ours = lineage.clone()
    for item in np.flatnonzero(lengths):
        target = torch.tensor([*tokens[item, : lengths[item]], 1])
        inputs = torch.cat([torch.zeros(1, dtype=torch.long), target[:-1]]).expand(users, -1)
        logits = model.logits(model.decode(inputs, memory))
        chosen = logits.log_softmax(-1)[:, torch.arange(len(target)), target]
        lineage[:, item] = chosen.sum(1) / len(target)
        total = torch.zeros(users)
        for position, token in enumerate(target[:-1].tolist()):
            (block,) = [b for b in vocabulary.blocks if b.first <= token < b.first + b.size]
            within = logits[:, position, block.first : block.first + block.size].log_softmax(-1)
            total += within[:, token - block.first]
        ours[:, item] = total
    return lineage, ours


def brute_force_legal(model, vocabulary, writing, memory):
    """Return (lineage, ours) [users, items] where a token competes with the tokens that follow its prefix in any ID."""
    tokens, lengths = vocabulary.joined(writing)
    written = {item: (*tokens[item, : lengths[item]].tolist(), 1) for item in np.flatnonzero(lengths).tolist()}
    lineage = torch.full((len(memory.hidden), len(tokens)), -torch.inf)
    ours = lineage.clone()
    for item, target in written.items():
        logits = model.logits(model.decode(torch.tensor([(0, *target[:-1])]).expand(len(lineage), -1), memory))
        steps = []
        for position, token in enumerate(target):
            rivals = sorted({other[position] for other in written.values() if other[:position] == target[:position]})
            steps.append(logits[:, position, rivals].log_softmax(-1)[:, rivals.index(token)])
        lineage[:, item], ours[:, item] = sum(steps) / len(steps), sum(steps[:-1])
    return lineage, ours


BRUTE_FORCE = {"vocabulary": brute_force, "legal": brute_force_legal}


def found_by_item(found, legal, n_items):
    """Return (lineage, ours) [users, items] of what a search returned; -inf for what it did not."""
    lineage = torch.full((len(found.leaf), n_items), -torch.inf)
    ours = lineage.clone()
    for user, row in enumerate(found.leaf.tolist()):
        for place, leaf in enumerate(row):
            if leaf >= 0:
                items = legal.tree.leaf_items[legal.tree.leaf_first[leaf] : legal.tree.leaf_first[leaf + 1]]
                assert torch.isinf(lineage[user, items]).all(), "an ID was returned twice"
                lineage[user, items], ours[user, items] = found.lineage[user, place], found.ours[user, place]
    return lineage, ours


def uneven_ids(seed=0):
    """IDs of different lengths, collisions, a suffix, and items that lack a view."""
    generator = np.random.default_rng(seed)
    text, image = generator.integers(0, 4, (30, 3)), generator.integers(0, 5, (30, 2))
    text[generator.random(30) < 0.3, 2] = -1
    text[:2], image[5] = -1, -1
    return reference.make_ids({"text": text, "image": image}, 5, suffix={"image": (np.arange(30) % 3).astype(np.int32)})


def tree_ids(n=30):
    """Ways down a tree of one to three levels, and an index in the leaf: IDs of two to four tokens."""
    draw = np.random.default_rng(5)
    paths, _ = grow(np.arange(n), lambda members: draw.choice(4, len(members), p=[0.6, 0.2, 0.1, 0.1]), leaf=4)
    assert {2, 3, 4} <= set(((paths >= 0).sum(axis=1) + 1).tolist())
    suffix = collisions.suffixes(paths, draw)
    return reference.make_ids({"text": paths}, 4, suffix={"text": suffix})


def numbered(middle):
    """Thirty IDs whose first level is the same whatever `middle` is."""
    n = np.arange(30)
    return np.stack([n % 5, n % middle, n // 5], axis=1)


WORLDS = {
    "plain": (lambda: reference.random_ids(40, levels=3), {}),
    "collisions": (lambda: reference.random_ids(40, levels=2, distinct=False), {}),
    "three views": (lambda: reference.random_ids(25, ("text", "image", "audio"), levels=2, size=6), {}),
    "tied": (
        lambda: reference.make_ids({"text": numbered(7), "image": numbered(4)}, 7, shared=1),
        {"tie_shared_tokens": True},
    ),
    "segments": (
        lambda: reference.make_ids(
            {"main": reference.random_ids(30, ("main",), levels=4, size=3).views["main"]},
            3,
            segments={"main": (("text", 2), ("image", 2))},
        ),
        {"separators": True},
    ),
    "uneven": (uneven_ids, {}),
    "tree": (tree_ids, {}),
    "numbers": (lambda: number_items(30, IdsParams(), 0), {"tie_levels": True}),
}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("softmax", BRUTE_FORCE)
@pytest.mark.parametrize("score", ["lineage", "ours"])
def test_a_beam_as_wide_as_the_catalogue_equals_brute_force(world, score, softmax):
    make, params = WORLDS[world]
    ids = make()
    for writing in {(next(iter(ids.views)),), tuple(ids.views)}:
        model, vocabulary, legal, memory = setting(ids, writing, softmax=softmax, **params)
        expected = BRUTE_FORCE[softmax](model, vocabulary, writing, memory)
        found = search(model, legal, memory, beam=ids.n_items, score=score)
        for made, known in zip(found_by_item(found, legal, ids.n_items), expected, strict=True):
            torch.testing.assert_close(made, known, atol=2e-5, rtol=1e-5)
        steering = found.of(score)
        assert bool((steering[:, :-1] >= steering[:, 1:]).all())


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("softmax", BRUTE_FORCE)
def test_exact_scoring_equals_brute_force(world, softmax, monkeypatch):
    make, params = WORLDS[world]
    ids = make()
    writing = tuple(ids.views)
    monkeypatch.setattr(exact, "CHUNK", 100)  # several chunks
    model, vocabulary, legal, memory = setting(ids, writing, softmax=softmax, **params)
    expected = BRUTE_FORCE[softmax](model, vocabulary, writing, memory)
    found = exact.score_everything(model, vocabulary, legal, memory)
    best = exact.best_of(found, legal, 3, "ours")
    torch.testing.assert_close(best.ours, found.ours.topk(3).values)
    for made, known in zip(found_by_item(found, legal, ids.n_items), expected, strict=True):
        torch.testing.assert_close(made, known, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(("beam", "levels"), [(5, 3), (20, 3), (5, 6)])
def test_items_equal_hugging_face_generate(beam, levels):
    ids = reference.random_ids(60, ("text",), levels=levels, size=4, seed=beam)
    vocabulary = Vocabulary.from_ids(ids, IdsParams())
    theirs = reference.hf_t5(SHAPE, vocabulary.size, seed=beam)
    ours = T5(vocabulary.size, SHAPE).eval().requires_grad_(False)
    ours.load_state_dict(seq2seq.weights_from_hf(theirs.state_dict()))
    source = torch.randint(2, vocabulary.size, (6, 11), generator=torch.Generator().manual_seed(beam))
    source[1, 4:], source[2, 7:] = 0, 0
    tokens, _ = vocabulary.tokens_of("text")
    rows = [(*row, 1) for row in tokens.tolist()]

    def allowed(_user, prefix):
        done = tuple(prefix.tolist()[1:])
        return sorted({row[len(done)] for row in rows if row[: len(done)] == done and len(row) > len(done)}) or [1]

    made = theirs.generate(
        input_ids=source,
        attention_mask=(source != 0).long(),
        num_beams=beam,
        num_return_sequences=beam,
        max_new_tokens=levels + 1,
        early_stopping=True,
        do_sample=False,
        prefix_allowed_tokens_fn=allowed,
        output_scores=True,
        return_dict_in_generate=True,
    )
    item_of = {row: item for item, row in enumerate(rows)}
    items = [item_of[tuple(row[1:])] for row in made.sequences.tolist()]
    legal = make_legal(vocabulary, ("text",), "joint")
    found = search(ours, legal, ours.encode(source), beam)
    assert legal.tree.leaf_items[legal.tree.leaf_first[found.leaf]].flatten().tolist() == items
    torch.testing.assert_close(found.lineage.flatten(), made.sequences_scores, atol=1e-5, rtol=1e-5)


def test_gathered_and_masked_attention_agree(monkeypatch):
    ids = reference.random_ids(50, levels=4, size=3)
    model, _, legal, memory = setting(ids)
    masked = search(model, legal, memory, 12)
    monkeypatch.setattr(decoding, "SLOTS_PER_ANCESTOR", 0)
    gathered = search(model, legal, memory, 12)
    assert torch.equal(masked.leaf, gathered.leaf)
    torch.testing.assert_close(masked.lineage, gathered.lineage, atol=1e-5, rtol=1e-5)


def test_a_batch_equals_its_users_one_by_one():
    ids = reference.random_ids(60, levels=3)
    model, _, legal, memory = setting(ids, ("text",), users=8)
    together = search(model, legal, memory, 7)
    for user in range(8):
        alone = search(model, legal, type(memory)(memory.hidden[user : user + 1], memory.kept[user : user + 1]), 7)
        assert torch.equal(alone.leaf[0], together.leaf[user])
        torch.testing.assert_close(alone.lineage[0], together.lineage[user], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("score", ["lineage", "ours"])
def test_closed_nodes_leave_exactly_the_other_items(score):
    ids = uneven_ids()
    model, _, legal, memory = setting(ids)
    generator = np.random.default_rng(1)
    seen = torch.from_numpy(generator.random((5, ids.n_items)) < 0.5)
    users, items = seen.nonzero(as_tuple=True)
    closed = legal.closed(users, items, 5)
    table = closed.hold(torch.arange(legal.tree.n_nodes).expand(5, -1))
    found = search(model, legal, memory, ids.n_items, score, closed)
    leaf_of = legal.leaf_of_item(ids.n_items)
    for user in range(5):
        open_leaves = {int(leaf_of[item]) for item in range(ids.n_items) if leaf_of[item] >= 0 and not seen[user, item]}
        assert {leaf for leaf in found.leaf[user].tolist() if leaf >= 0} == open_leaves
    # and a node is closed when, and only when, every item below it is seen
    for user in range(5):
        for node in range(1, legal.tree.n_nodes):
            below = [item for item, path in enumerate(legal.item_paths.tolist()) if node in path]
            assert bool(table[user, node]) == all(bool(seen[user, item]) for item in below)


def test_k_ids_remain_when_the_whole_beam_is_closed():
    ids = reference.random_ids(40, ("text",), levels=3)
    model, _, legal, memory = setting(ids)
    plain = search(model, legal, memory, 5)
    best = legal.tree.leaf_items[legal.tree.leaf_first[plain.leaf]]
    users = torch.arange(5).repeat_interleave(5)
    found, entered = beam_search.watched_search(
        model, legal, memory, 5, "lineage", None, legal.closed(users, best.flatten(), 5)
    )
    assert torch.equal(found.leaf, plain.leaf) and bool(entered.all())
    masked = search(model, legal, memory, 5, closed=legal.closed(users, best.flatten(), 5))
    again = legal.tree.leaf_items[legal.tree.leaf_first[masked.leaf]]
    assert bool((masked.leaf >= 0).all())
    for user in range(5):
        assert not set(again[user].tolist()) & set(best[user].tolist())


def test_users_that_never_enter_a_watched_node_keep_their_result():
    ids = reference.random_ids(60, ("text",), levels=3)
    model, _, legal, memory = setting(ids, users=40)
    seen = torch.from_numpy(np.random.default_rng(0).random((40, 60)) < 0.02)
    closed = legal.closed(*seen.nonzero(as_tuple=True), 40)
    plain, entered = beam_search.watched_search(model, legal, memory, 4, "lineage", None, closed)
    masked = search(model, legal, memory, 4, closed=closed)
    assert 0 < int(entered.sum()) < 40
    assert torch.equal(plain.leaf[~entered], masked.leaf[~entered])


def test_per_modality_reaches_every_pair_of_segments():
    ids = reference.random_ids(12, ("text", "image"), levels=2, size=4)
    model, vocabulary, legal, memory = setting(ids, tree="per_modality")
    text, image = (np.unique(ids.views[view], axis=0) for view in ids.views)
    beam = len(text) * len(image)
    found = search(model, legal, memory, beam)
    assert int(torch.isfinite(found.lineage).sum(dim=1).max()) == beam  # all combinations, most of them no item's
    assert int((found.leaf >= 0).sum(dim=1).min()) == 12
    expected = brute_force(model, vocabulary, tuple(ids.views), memory)
    for made, known in zip(found_by_item(found, legal, 12), expected, strict=True):
        torch.testing.assert_close(made, known, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("world", ["segments", "uneven"])
def test_per_modality_finds_every_item_at_full_width(world):
    make, params = WORLDS[world]
    ids = make()
    model, vocabulary, legal, memory = setting(ids, tree="per_modality", **params)
    found = search(model, legal, memory, 2000)
    expected = brute_force(model, vocabulary, tuple(ids.views), memory)
    for made, known in zip(found_by_item(found, legal, ids.n_items), expected, strict=True):
        torch.testing.assert_close(made, known, atol=2e-5, rtol=1e-5)


def test_free_writes_any_token_and_tells_which_are_items():
    ids = reference.random_ids(10, ("text",), levels=2, size=4)
    model, vocabulary, legal, memory = setting(ids, tree="free", users=3)
    found = search(model, legal, memory, vocabulary.size**2)
    # every sequence of at most 2 tokens and eos: eos alone, one token, two tokens
    n = vocabulary.size - 2
    assert int(torch.isfinite(found.lineage[0]).sum()) == min(vocabulary.size**2, 1 + n + n * n)
    assert int((found.leaf[0] >= 0).sum()) == 10
    lineage, _ = brute_force(model, vocabulary, ("text",), memory)
    torch.testing.assert_close(found_by_item(found, legal, 10)[0], lineage, atol=2e-5, rtol=1e-5)


def test_equal_scores_are_in_order_of_item_numbers():
    ids = reference.random_ids(30, ("text",), levels=3)
    model, _, legal, memory = setting(ids, spread=0.0)  # every token equally likely
    found = search(model, legal, memory, 30)
    items = legal.tree.leaf_items[legal.tree.leaf_first[found.leaf]]
    assert torch.equal(items, torch.arange(30).expand(5, 30))
    narrow = search(model, legal, memory, 4)
    rows = sorted(tuple(row) for row in Vocabulary.from_ids(ids, IdsParams()).tokens_of("text")[0].tolist())
    lowest = {Vocabulary.from_ids(ids, IdsParams()).tokens_of("text")[0].tolist().index(list(row)) for row in rows[:4]}
    assert set(legal.tree.leaf_items[legal.tree.leaf_first[narrow.leaf[0]]].tolist()) == lowest


def test_top_places_are_the_highest_and_of_equals_the_lowest():
    generator = np.random.default_rng(0)
    scores = torch.from_numpy(generator.integers(-3, 3, (50, 40)) / 2.0).float()
    scores[generator.random((50, 40)) < 0.2] = -torch.inf
    scores[0, 0], scores[0, 1] = -0.0, 0.0
    for k in (1, 7, 40, 60):
        expected = scores.argsort(dim=1, descending=True, stable=True)[:, :k].sort(dim=1).values
        assert torch.equal(beam_search.top_places(scores, k), expected)


def test_moves_of_a_real_sized_tree_are_the_tree(real_data):
    import gzip
    import json

    path = real_data / "instruments" / "Instruments.index_lemb.json.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    raw = json.loads(gzip.decompress(path.read_bytes()))
    codes = np.array([[int(token[3:-1]) for token in raw[str(item)]] for item in range(len(raw))])
    ids = reference.make_ids({"text": codes}, 256)
    legal = make_legal(Vocabulary.from_ids(ids, IdsParams()), ("text",), "joint")
    assert [level.branch for level in legal.levels] == [126, 228, 41, 36, 1]  # lineage.md 7.3
    assert int((legal.tree.leaf_first.diff() > 0).sum()) == 5988
    assert [level.ends for level in legal.levels] == [False] * 4 + [True]


def test_tasks_module_numbers_padding_as_the_model_does():
    assert tasks.PAD == seq2seq.PAD == 0
