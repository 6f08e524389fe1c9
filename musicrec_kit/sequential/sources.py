"""What is known of items beside who took them: attributes, features, and codes of features.

Data in: the data set's items, features by modality, settings. Data out: `Sources`, which a sequential model reads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from musicrec_kit import runs
from musicrec_kit.features import Features
from musicrec_kit.params import Refused, SequentialParams
from musicrec_kit.sequential.product_codes import product_codes

FIELDS = ("categories", "brand")
SOURCES = "sources.safetensors"


@dataclass(frozen=True)
class Attributes:
    """The values of one field: item i has `values[offsets[i]:offsets[i + 1]]`.

    Attributes:
        offsets: int64 [items + 1].
        values: int64, from 0 to size - 1.
        size: how many values there are.
    """

    offsets: np.ndarray
    values: np.ndarray
    size: int

    @classmethod
    def of(cls, lists: pd.Series) -> "Attributes":
        """Return the values of a column of lists, numbered in the order of their names; each counts once an item.

        >>> found = Attributes.of(pd.Series([["b", "a"], [], ["b", "b"]]))
        >>> found.offsets.tolist(), found.values.tolist(), found.size
        ([0, 2, 2, 3], [0, 1, 1], 2)
        """
        distinct = [sorted(set(each)) for each in lists]
        names = sorted(set(chain.from_iterable(distinct)))
        number = {name: i for i, name in enumerate(names)}
        counts = [len(each) for each in distinct]
        values = np.array([number[name] for each in distinct for name in each], np.int64)
        return cls(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), values, len(names))

    def multi_hot(self) -> np.ndarray:
        """Return bool [items, size]."""
        hot = np.zeros((len(self.offsets) - 1, self.size), bool)
        hot[np.repeat(np.arange(len(hot)), np.diff(self.offsets)), self.values] = True
        return hot


@dataclass(frozen=True)
class Sources:
    """What a sequential model reads of items.

    Attributes:
        attributes: field -> values; fields without any value are left out.
        features: modality -> (float32 [items, dim], bool [items]).
        codes: int64 [items, digits] of product quantization, -1 for an item without text; None where not asked for.
        values: how many values a digit has.
        known: bool [items], the items that interests are found among; None: all.
    """

    n_items: int
    attributes: dict[str, Attributes] = field(default_factory=dict)
    features: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    codes: np.ndarray | None = None
    values: int = 0
    known: np.ndarray | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """Return everything as named arrays, for a file."""
        found: dict[str, np.ndarray] = {}
        for name, attribute in self.attributes.items():
            found |= {f"attributes.{name}.offsets": attribute.offsets, f"attributes.{name}.values": attribute.values}
            found[f"attributes.{name}.size"] = np.array([attribute.size])
        for name, (matrix, present) in self.features.items():
            found |= {f"features.{name}.matrix": matrix, f"features.{name}.present": present}
        if self.codes is not None:
            found |= {"codes": self.codes, "values": np.array([self.values])}
        if self.known is not None:
            found["known"] = self.known
        return found

    def save(self, path: Path) -> None:
        """Write everything into one file."""
        runs.write_tensors(path, self.arrays())

    @classmethod
    def load(cls, path: Path, n_items: int) -> "Sources":
        """Read what `save` wrote."""
        return cls.from_arrays(n_items, runs.read_tensors(path))

    @classmethod
    def from_arrays(cls, n_items: int, arrays: Mapping[str, np.ndarray]) -> "Sources":
        """Return what `arrays` gave."""
        named = {kind: sorted({n.split(".")[1] for n in arrays if n.startswith(f"{kind}.")}) for kind in KINDS}
        attributes = {
            name: Attributes(
                arrays[f"attributes.{name}.offsets"],
                arrays[f"attributes.{name}.values"],
                int(arrays[f"attributes.{name}.size"][0]),
            )
            for name in named["attributes"]
        }
        features = {n: (arrays[f"features.{n}.matrix"], arrays[f"features.{n}.present"]) for n in named["features"]}
        values = int(arrays["values"][0]) if "values" in arrays else 0
        return cls(n_items, attributes, features, arrays.get("codes"), values, arrays.get("known"))


KINDS = ("attributes", "features")


def attributes_of(items: pd.DataFrame) -> dict[str, Attributes]:
    """Return field -> values of a data set's items; a field that no item has is left out."""
    lists = {
        "categories": items["categories"],
        "brand": pd.Series([[b] if b else [] for b in items["brand"]], dtype=object),
    }
    return {name: found for name in FIELDS if (found := Attributes.of(lists[name])).size}


def sources_of(
    params: SequentialParams,
    items: pd.DataFrame,
    modalities: Sequence[str],
    features: Mapping[str, Features],
    in_training: np.ndarray,
    seed: int = 0,
    among: np.ndarray | None = None,
) -> Sources:
    """Return what a model with these settings reads.

    Args:
        modalities: of the method; codes are made of the one that it has.
        features: those of the modalities that the settings name, or more.
        in_training: bool [items]; codes are fitted on these items alone.
        among: bool [items]; features are centred and scaled by these items, and interests found in them; None: all.

    Raises:
        Refused: attributes are asked for, and no item has any; or there are too few items for codes.
    """
    attributes = attributes_of(items) if params.reads_attributes else {}
    if params.reads_attributes and not attributes:
        raise Refused(
            "sequential: this method reads categories and brands, and no item of the data set has any; "
            + (
                "choose another method"
                if params.pretrained
                else "name a modality instead: --set sequential.beside=text"
            )
        )
    codes, values = None, 0
    if "codes" in params.vectors:
        (modality,) = modalities
        text, values = features[modality], params.code_values
        codes = product_codes(text.matrix, text.present & in_training, params.digits, values, seed)
        codes[~text.present] = -1
    kept = modalities if "features" in params.vectors else [m for m in features if m == params.beside]
    matrices = {name: (scaled(features[name], params.scaling, among), features[name].present) for name in kept}
    return Sources(len(items), attributes, matrices, codes, values, among)


def scaled(features: Features, how: str, among: np.ndarray | None = None) -> np.ndarray:
    """Return float32 [items, dim]: `none` as it is; `modality` centred and divided by one number, the root mean square.

    Encoders differ: a text of norm 1 beside a picture of norm 30 is not seen. Rows of items without it are zero.
    """
    measured = features.present if among is None else features.present & among
    if how == "none" or not measured.any():
        return features.matrix
    centred = features.matrix - features.matrix[measured].mean(axis=0)
    size = float(np.sqrt(np.square(centred[measured]).mean()))
    return np.where(features.present[:, None], centred / (size or 1.0), 0).astype(np.float32)
