"""The signature of the alignment tasks: a model that was trained on them turns an item's text ID into its image ID."""

import numpy as np
import pytest
import reference_generation as reference

from musicrec_kit.analysis.correspondence import alignment_accuracy
from musicrec_kit.data.splits import Sequences
from musicrec_kit.generation import fit_generator
from musicrec_kit.params import GeneratorParams, IdsParams

ITEMS, CODES = 24, 5


def planted(one_view: bool):
    """Return IDs in which the image's codes follow from the text's, each in both roles."""
    text = np.stack([np.arange(ITEMS) // CODES, np.arange(ITEMS) % CODES], axis=1)
    image = (text[:, ::-1] * 2 + 1) % CODES
    if not one_view:
        return reference.make_ids({"text": text, "image": image}, size=CODES)
    codes = {"item": np.concatenate([text, image], axis=1)}
    return reference.make_ids(codes, size=CODES, segments={"item": (("text", 2), ("image", 2))})


def accuracy(one_view: bool, words: tuple[str, ...], pairs: str = "own") -> float:
    sequences = Sequences.from_lists([list(np.random.default_rng(u).permutation(ITEMS)[:6]) for u in range(30)], ITEMS)
    params = GeneratorParams(
        backbone="tiny", tasks=words, epochs=200, steps=200, batch=48, lr=1e-2, dropout=0.0, align_pairs=pairs
    )
    made = fit_generator(sequences, planted(one_view), params, IdsParams(), 5)
    return float(alignment_accuracy(made, sequences)["accuracy"].mean())


@pytest.mark.parametrize("one_view", [False, True])
def test_alignment_raises_the_accuracy_from_text_to_image_and_back(one_view: bool) -> None:
    assert accuracy(one_view, ("align",)) > 0.9
    assert accuracy(one_view, ("next",)) < 0.4


def test_wrong_pairs_do_not() -> None:
    assert accuracy(False, ("align",), pairs="shuffled") < 0.4
