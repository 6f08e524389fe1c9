"""Health of codes: numbers worked by hand."""

from math import exp, log

import numpy as np
import pytest

from musicrec_kit.tokenizers.codes import ItemCodes
from musicrec_kit.tokenizers.health import CollapsedError, check_collapse, collision_rate, usage


def codes(rows, size=4, name="text"):
    table = np.array(rows, np.int32)
    return ItemCodes({name: table}, {name: (size,) * table.shape[1]})


def test_usage_by_hand():
    health = usage(codes([[0, 1], [0, 1], [0, 2], [3, 1], [-1, -1]]))
    first, second = health.to_dict("records")
    entropy = -(0.75 * log(0.75) + 0.25 * log(0.25))
    assert first == {
        "stream": "text",
        "level": 0,
        "items": 4,
        "codes": 4,
        "used": 2,
        "perplexity": pytest.approx(exp(entropy)),
        "top_share": 0.75,
        "prefixes": 2,
        "collisions": 2,
        "collision_rate": 0.5,
        "largest_group": 3,
    }
    assert (second["prefixes"], second["collisions"], second["largest_group"], second["used"]) == (3, 1, 2, 2)


def test_usage_of_a_stream_without_items():
    health = usage(codes([[-1], [-1]]))
    assert health[["items", "used", "collisions", "largest_group"]].iloc[0].tolist() == [0, 0, 0, 0]


def test_collision_rate_is_the_mean_of_the_streams():
    tables = {"text": np.array([[0], [0], [1], [2]]), "image": np.array([[0], [1], [2], [3]])}
    assert collision_rate(tables) == 0.125


@pytest.mark.parametrize(
    ("used", "size", "items", "collapsed"),
    [(1, 20, 40, True), (2, 20, 40, False), (1, 500, 10, False), (1, 500, 11, True)],
)
def test_collapse_is_under_a_tenth_of_the_usable_codes(used, size, items, collapsed):
    health = usage(codes([[i % used] for i in range(items)], size))
    if collapsed:
        with pytest.raises(CollapsedError, match=f"uses {used} of {min(size, items)} usable codes"):
            check_collapse(health)
    else:
        check_collapse(health)
