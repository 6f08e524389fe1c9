"""Training: it learns what there is to learn, resumes to the same weights, and its result comes back from disk."""

import numpy as np
import pytest
import reference_generation as reference
import torch

from musicrec_kit import training
from musicrec_kit.data.splits import Sequences, held_out, train_prefixes
from musicrec_kit.generation import fit
from musicrec_kit.generation.fit import Generator, fit_generator
from musicrec_kit.generation.ranking import Ranker
from musicrec_kit.generation.seq2seq import T5
from musicrec_kit.generation.tasks import TokenStore
from musicrec_kit.params import GeneratorParams, IdsParams, RankParams, Refused

TINY = GeneratorParams(
    backbone="tiny", epochs=2, batch=32, lr=3e-3, tasks=("next", "joint", "align", "cross"), dropout=0.1
)


def weights(generator):
    return {name: tensor.clone() for name, tensor in generator.model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def world():
    return reference.random_sequences(20, 15, most=7), reference.random_ids(15)


def test_a_planted_chain_is_learnt():
    """Item i is always followed by i + 1: after training the next item stands first in every list."""
    n, history = 10, 2
    starts = np.random.default_rng(0).integers(0, n, 40)
    sequences = Sequences.from_lists([[(s + i) % n for i in range(6)] for s in starts], n)
    params = TINY.model_copy(update={"epochs": 20, "batch": 32, "dropout": 0.0, "tasks": ("next", "joint"), "lr": 1e-2})
    made = fit_generator(sequences, reference.random_ids(n, levels=2), params, IdsParams(), history)
    examples, full = held_out(sequences, "test", history), held_out(sequences, "test", 10**9)
    found = Ranker(made, sequences, RankParams(beam=5)).rank(examples, full)
    for name in ("text", "image", "joint", "merged", "merged_lse"):
        assert (found[name].target_rank == 1).mean() > 0.95, name
        assert (found[f"{name}/no_history"].target_rank == 1).mean() > 0.95, name


def test_same_seed_same_weights_and_another_seed_others(world):
    made = [weights(fit_generator(*world, TINY, IdsParams(), 5, seed=seed)) for seed in (0, 0, 1)]
    assert same(made[0], made[1]) and not same(made[0], made[2])


def test_global_random_state_is_left_alone(world):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    fit_generator(*world, TINY.model_copy(update={"epochs": 1}), IdsParams(), 5)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("stages", [(), (("align",), ("next",))])
@pytest.mark.parametrize("fatal", [4, 11])
def test_a_killed_training_ends_with_the_same_weights(world, tmp_path, monkeypatch, stages, fatal):
    params = TINY.model_copy(update={"epochs": 3, "stages": stages, "batch": 20, "tasks": ("next", "cross")})
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    whole = weights(fit_generator(*world, params, IdsParams(), 5, tmp_path / "whole"))
    real, calls = fit.T5.loss, 0

    def dies(self, *args, **kwargs):
        nonlocal calls
        calls += self.training
        if calls == fatal:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(fit.T5, "loss", dies)
    with pytest.raises(KeyboardInterrupt):
        fit_generator(*world, params, IdsParams(), 5, tmp_path / "killed")
    monkeypatch.setattr(fit.T5, "loss", real)
    again = fit_generator(*world, params, IdsParams(), 5, tmp_path / "killed")
    assert same(whole, weights(again))


def test_save_and_load(world, tmp_path):
    sequences, ids = world
    made = fit_generator(sequences, ids, TINY, IdsParams(separators=False), 5, tmp_path)
    loaded = Generator.load(tmp_path)
    assert same(weights(made), weights(loaded))
    assert loaded.params == made.params and loaded.history == 5 and loaded.families == made.families
    assert [record["epoch"] for record in loaded.log] == [0, 1]
    examples, full = held_out(sequences, "valid", 5), held_out(sequences, "valid", 10**9)
    lists = [Ranker(g, sequences, RankParams(beam=4)).rank(examples, full) for g in (made, loaded)]
    for name in lists[0]:
        np.testing.assert_array_equal(lists[0][name].items, lists[1][name].items)


def test_stages_train_their_own_tasks(world, tmp_path, monkeypatch):
    seen = []
    real = training.fit

    def watch(model, batches, loss, **kwargs):
        seen.append((kwargs["name"], sum(1 for _ in batches(0)), kwargs["patience"], kwargs["validate"] is None))
        return real(model, batches, loss, **kwargs)

    monkeypatch.setattr(training, "fit", watch)
    params = TINY.model_copy(update={"stages": (("align",), ("next",)), "epochs": 1, "batch": 7})
    sequences, ids = world
    made = fit_generator(sequences, ids, params, IdsParams(), 5, tmp_path)
    n_prefixes = int((sequences.train_end - sequences.offsets[:-1] - 1).clip(0).sum())
    # 15 items in 2 directions without validation, then every prefix in 2 views: as many steps in both
    steps = -(-2 * n_prefixes // 7)
    assert steps > -(-30 // 7)
    assert seen == [("generator stage 0", steps, None, True), ("generator stage 1", steps, TINY.patience, False)]
    assert [(r["stage"], "valid" in r) for r in made.log] == [(0, False), (1, True)]
    assert (tmp_path / "stage_1" / "metrics.jsonl").is_file()


def test_position_biases_learn_at_their_own_rate(world):
    params = TINY.model_copy(update={"steps": 1, "dropout": 0.0, "weight_decay": 0.0, "warmup": 0.0, "clip": 1e9})
    start = weights(Generator.untrained(world[1], params, IdsParams(), 5))
    moved = {}
    for rate in (1.0, 100.0):
        made = fit_generator(*world, params.model_copy(update={"position_lr": rate}), IdsParams(), 5)
        moved[rate] = {name: (tensor - start[name]).abs().max() for name, tensor in weights(made).items()}
    for name, far in moved[100.0].items():
        factor = 100 if "position_bias" in name else 1
        assert float(far) == pytest.approx(factor * float(moved[1.0][name]), rel=1e-3), name


@pytest.mark.parametrize(("steps", "looks"), [(3, 3), (9, 8), (25, 8)])
def test_steps_instead_of_epochs_are_all_made(world, steps, looks):
    params = TINY.model_copy(
        update={"steps": steps, "tasks": ("next",), "batch": 10, "epochs": 99, "lr": 1e-9, "patience": 1}
    )
    made = fit_generator(*world, params, IdsParams(), 5)
    assert len(made.log) == looks and made.log[-1]["step"] == steps
    assert made.log[-1]["lr"] < 1e-9 * 0.6  # the schedule ends where the steps do


def test_chunks_cut_the_stream_of_epochs_without_a_gap(world):
    sequences, ids = world
    params = TINY.model_copy(update={"tasks": ("next",), "batch": 10, "steps": 25})
    made = Generator.untrained(ids, params, IdsParams(), 5)
    examples, families, store = train_prefixes(sequences, 5), list(made.families["next"]), made.store(sequences)
    stream = fit._Stream(store, families, examples, 10, 25, params, 0)
    found = [target for number in range(stream.chunks) for _, target in stream.chunk(number)]
    wanted = []
    for epoch in range(3):
        spans = fit.tasks.draw_epoch(store, families, examples, 0, epoch)
        wanted += [target for _, target in fit.tasks.batches(store, spans, 10, 0, epoch)]
    assert len(found) == 25 and all(torch.equal(a, b) for a, b in zip(found, wanted, strict=False))


@pytest.mark.parametrize("marked", [False, True])
def test_a_batch_in_parts_is_the_same_batch(world, marked):
    params = TINY.model_copy(update={"steps": 3, "dropout": 0.0, "whole_word": marked})
    whole, parts = (
        fit_generator(*world, params.model_copy(update={"micro_batch": rows}), IdsParams(), 5) for rows in (None, 5)
    )
    for (name, a), b in zip(weights(whole).items(), weights(parts).values(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4, msg=name)
    assert [r["loss"] for r in whole.log] == pytest.approx([r["loss"] for r in parts.log], rel=1e-4)


def test_the_last_weights_or_the_best(world):
    last, best = (
        fit_generator(*world, TINY.model_copy(update={"lr": 0.3, "steps": 40, "keep": keep}), IdsParams(), 5)
        for keep in ("last", "best")
    )
    values = [record["valid"] for record in last.log]
    assert values == [record["valid"] for record in best.log] and min(values) < values[-1]
    loss = {}
    for name, made in (("last", last), ("best", best)):
        families = [family for word in made.families.values() for family in word]
        valid = held_out(world[0], "valid", 5)
        with torch.no_grad():
            loss[name], _ = fit.validation_loss(
                made.model, made.store(world[0]), T5.loss, fit.validation_tasks(families), valid
            )
    assert loss["last"] == pytest.approx(values[-1]) and loss["best"] == pytest.approx(min(values))


def test_validation_is_the_mean_over_views_of_the_token_mean(world):
    sequences, ids = world
    made = Generator.untrained(ids, TINY, IdsParams(), 5, seed=3)
    every = [task for word in made.families for task in made.tasks(word)]
    store = TokenStore(made.vocabulary, sequences, every)
    families = [family for word in made.families.values() for family in word]
    chosen = fit.validation_tasks(families)
    assert [task.name for task in chosen] == ["next/text", "next/image"]
    examples = held_out(sequences, "valid", 5)
    made.model.eval()
    with torch.no_grad():
        value, parts = fit.validation_loss(made.model, store, T5.loss, chosen, examples)
        expected = []
        for view in ("text", "image"):
            tokens, _ = made.vocabulary.tokens_of(view)
            losses = []
            for start, end, target in zip(examples.start, examples.end, examples.target, strict=True):
                source = torch.tensor([[*tokens[sequences.items[start:end]].ravel(), 1]])
                wanted = torch.tensor([[*tokens[target], 1]])
                losses.append(made.model.loss(source, wanted))
            expected.append(float(torch.stack(losses).mean()))  # all IDs have the same length
    assert parts == {"valid/next/text": pytest.approx(expected[0]), "valid/next/image": pytest.approx(expected[1])}
    assert value == pytest.approx(np.mean(expected))


def test_pretrained_blocks_are_the_start(tmp_path, world):
    shape = fit.SHAPES["tiny"]
    reference.hf_t5(shape, 50, seed=2).save_pretrained(tmp_path)
    params = TINY.model_copy(update={"pretrained": str(tmp_path), "epochs": 0})
    made = fit_generator(*world, params, IdsParams(), 5)
    expected = fit.seq2seq.weights_from_hf(reference.hf_t5(shape, 50, seed=2).state_dict())
    for name, tensor in made.model.state_dict().items():
        assert name == "embedding.weight" or torch.equal(tensor, expected[name])


def test_a_stage_without_examples_is_refused(world):
    _, ids = world
    lonely = Sequences.from_lists([[0], [1]], 15)
    with pytest.raises(Refused, match="no training examples"):
        fit_generator(lonely, ids, TINY.model_copy(update={"tasks": ("next",)}), IdsParams(), 5)
