"""S3-Rec's first stage: what is hidden, what it is asked for, and that it is a stage that can be continued."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from musicrec_kit import seeds, training
from musicrec_kit.data.splits import Sequences
from musicrec_kit.params import PretrainingParams, SequentialParams
from musicrec_kit.sequential import Sources, fit_recommender, pretraining
from musicrec_kit.sequential.model import Model
from musicrec_kit.sequential.sources import attributes_of
from musicrec_kit.sequential.windows import Windows

ITEMS = pd.DataFrame({"categories": [["a"], ["a", "b"], [], ["c"], ["b"], ["c"]], "brand": ["x", "", "y", "", "x", ""]})
SOURCES = Sources(len(ITEMS), attributes_of(ITEMS))
PARAMS = SequentialParams(dim=4, layers=1, heads=1, dropout=0.0, pretrained=True)
PADDING, MASK = 6, 7


def model() -> Model:
    with seeds.torch_seed(0):
        made = Model(PARAMS, 8, SOURCES)
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return made


def test_a_batch_hides_items_and_cuts_segments_that_fit_together() -> None:
    lengths = np.arange(1, 9)
    ends = np.cumsum(lengths)
    windows = Windows(np.random.default_rng(0).integers(6, size=ends[-1]), ends - lengths, ends)
    seen = set()
    for number in range(30):
        rng = np.random.default_rng(number)
        batch = pretraining.make_batch(windows, np.arange(8), model(), PretrainingParams(mask=0.3), rng)
        items, hidden, other, rest, segment, stranger = (each.numpy() for each in batch)
        inside = np.arange(8) < lengths[:, None]
        assert (items[~inside] == PADDING).all()
        for each in (hidden, rest, segment, stranger):
            assert (each[~inside] == PADDING).all() and (each[inside] != PADDING).all()
        assert ((hidden == items) | (hidden == MASK))[inside].all()
        within = inside & (rest == MASK)
        assert (segment[within] == items[within]).all() and (segment[inside & ~within] == MASK).all()
        assert (stranger[within] < PADDING).all() and (stranger[inside & ~within] == MASK).all()
        assert (rest[inside & ~within] == items[inside & ~within]).all()
        for row, length in enumerate(lengths):
            places = np.flatnonzero(within[row])
            assert 1 <= len(places) <= max(1, length // 2) and np.ptp(places) == len(places) - 1, "one piece"
            known = set(items[row, :length].tolist())
            if len(known) < 6:
                assert not known & set(other[row].tolist())
            if length == 8:
                seen.add((int(places[0]), len(places)))
    assert len(seen) > 10, "segments stand anywhere and have any length"


def test_the_four_losses_are_their_formulas() -> None:
    trainer = pretraining.Pretrainer(model(), SOURCES)
    pretraining.look_both_ways(trainer.model, True)
    items = torch.tensor([[0, 1, 4], [3, 5, PADDING]])
    hidden = torch.tensor([[0, MASK, 4], [3, 5, PADDING]])
    other = torch.tensor([[2, 5, 3], [0, 0, 0]])
    rest, segment = (
        torch.tensor([[0, 1, MASK], [MASK, 5, PADDING]]),
        torch.tensor([[MASK, MASK, 4], [3, MASK, PADDING]]),
    )
    stranger = torch.tensor([[MASK, MASK, 3], [0, MASK, PADDING]])
    sigma = lambda x: 1 / (1 + math.exp(-x))
    with torch.no_grad():
        found = trainer.losses(pretraining.Batch(items, hidden, other, rest, segment, stranger))
        catalogue = trainer.model.catalogue()
        states = trainer.model(hidden, catalogue)[0]
        hot = np.concatenate([each.multi_hot() for each in SOURCES.attributes.values()], axis=1)
        rows = catalogue.read

        def attributes(layer: torch.nn.Linear, places: list[tuple[int, int]]) -> float:
            total = 0.0
            for row, place in places:
                for number, has in enumerate(hot[items[row, place]]):
                    p = sigma(float(layer(states[row, place]) @ trainer.attributes.weight[number]))
                    total -= math.log(p if has else 1 - p)
            return total / 2

        def before(asked: torch.Tensor, own: torch.Tensor, not_own: torch.Tensor) -> float:
            return -math.log(sigma(sigma(float(asked @ own)) - sigma(float(asked @ not_own))))

        expected = {
            "item_attribute": attributes(trainer.item_attribute, [(0, 0), (0, 2), (1, 0), (1, 1)]),
            "masked_attribute": attributes(trainer.masked_attribute, [(0, 1)]),
            "masked_item": before(trainer.masked_item(states[0, 1]), rows[1], rows[5]) / 2,
        }
        ends = [
            [trainer.model(each, catalogue)[0][row, last] for row, last in ((0, 2), (1, 1))]
            for each in (rest, segment, stranger)
        ]
        pairs = zip(*ends, strict=True)
        expected["segment"] = sum(before(trainer.segment(a), own, not_own) for a, own, not_own in pairs) / 2
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, rel=1e-4)


def test_a_killed_first_stage_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    sequences = Sequences.from_lists([rng.integers(6, size=7).tolist() for _ in range(20)], 6)
    params = SequentialParams(
        dim=4, layers=1, heads=1, epochs=2, batch=8, pretrained=True, pretraining={"epochs": 3, "batch": 8}
    )
    whole = fit_recommender(sequences, params, 5, seed=1, sources=SOURCES).model.state_dict()
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    calls, make = 0, pretraining.make_batch

    def killed(*given: object) -> object:
        nonlocal calls
        calls += 1
        if calls > 4:  # in the second epoch: three batches are one
            raise KeyboardInterrupt
        return make(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(pretraining, "make_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        fit_recommender(sequences, params, 5, tmp_path, 1, sources=SOURCES)
    monkeypatch.setattr(pretraining, "make_batch", make)
    again = fit_recommender(sequences, params, 5, tmp_path, 1, sources=SOURCES).model.state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    # what is there is read back: the first stage is not trained again
    monkeypatch.setattr(pretraining, "make_batch", lambda *_: pytest.fail("the first stage was trained again"))
    fit_recommender(sequences, params, 5, tmp_path, 1, sources=SOURCES)
    other = fit_recommender(sequences, params.model_copy(update={"pretrained": False}), 5, seed=1).model.state_dict()
    assert not torch.equal(whole["items.own.weight"], other["items.own.weight"])
