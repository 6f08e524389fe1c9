"""Settings: YAML files merged into one frozen, checked tree.

Precedence is size < dataset < method < run (`architecture.md` section 5 names the files). A key that no settings class
knows is refused, naming the nearest real one. Every default that a paper leaves open is explained in `params/`.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from musicrec_kit.sequential_params import PretrainingParams, SequentialParams
from musicrec_kit.settings_help import explain, keys, page
from musicrec_kit.stage_params import (
    PROFILES,
    CFParams,
    CounterParams,
    DataParams,
    DemoParams,
    FeatureParams,
    Frozen,
    GeneratorParams,
    IdsParams,
    RankParams,
    TokenizerParams,
)

__all__ = [
    "PROFILES",
    "VISUAL",
    "CFParams",
    "CounterParams",
    "DataParams",
    "DemoParams",
    "FeatureParams",
    "Frozen",
    "GeneratorParams",
    "IdsParams",
    "PretrainingParams",
    "RankParams",
    "Refused",
    "SequentialParams",
    "Settings",
    "Size",
    "TokenizerParams",
    "build",
    "keys_page",
    "merge",
    "short_key",
]

Size = Literal["smoke", "small", "paper"]
LISTS = frozenset({"joint", "merged", "merged_lse", "main", "popularity", "markov"})  # no names for one view of several
VISUAL = "image"  # the modality that `generator.visual_tokens` shows


class Refused(ValueError):
    """A request that the kit will not run: bad settings or bad data. The command line exits with 2."""


class Settings(Frozen):
    """Everything that decides a run's numbers, apart from the data's own bytes and the seed."""

    family: Literal["generative", "sequential", "heuristic"] = "generative"
    modalities: tuple[str, ...] = ("text", "image")
    main_list: str | None = Field(None, description="list of record; null: merged, or main where there is one view")
    data: DataParams = Field(default_factory=DataParams)
    features: dict[str, FeatureParams] = Field(default_factory=dict)
    cf: CFParams = Field(default_factory=CFParams)
    tokenizer: TokenizerParams = Field(default_factory=TokenizerParams)
    ids: IdsParams = Field(default_factory=IdsParams)
    generator: GeneratorParams = Field(default_factory=GeneratorParams)
    rank: RankParams = Field(default_factory=RankParams)
    sequential: SequentialParams = Field(default_factory=SequentialParams)
    counter: CounterParams = Field(default_factory=CounterParams)

    @model_validator(mode="after")
    def _decodable(self) -> "Settings":
        if self.generator.softmax == "legal" and self.rank.tree != "joint":
            raise ValueError(
                f"generator.softmax=legal trains a model that never learns which IDs exist, and rank.tree="
                f"{self.rank.tree} relies on it; set rank.tree=joint or generator.softmax=vocabulary"
            )
        return self

    @model_validator(mode="after")
    def _views_are_no_lists(self) -> "Settings":
        if len(self.views) > 1 and (taken := sorted(set(self.views) & LISTS)):
            raise ValueError(
                f"the view {taken[0]!r} has the name of another list; name it otherwise with ids.views, such as "
                "{fused: [" + ", ".join(self.views[taken[0]]) + "]}"
            )
        return self

    @model_validator(mode="after")
    def _codes_of_one_modality(self) -> "Settings":
        if self.family == "sequential" and "codes" in self.sequential.vectors and len(self.modalities) != 1:
            raise ValueError(
                f"sequential.vectors=[codes] makes codes of one modality, and modalities={list(self.modalities)}; set "
                "modalities=[text]"
            )
        return self

    @model_validator(mode="after")
    def _leaves_told_apart(self) -> "Settings":
        leaves = self.ids.source == "tokenizer" and self.tokenizer.grows_a_tree
        if leaves and self.ids.collisions in ("distance", "sinkhorn"):
            raise ValueError(
                f"tokenizer.kind={self.tokenizer.kind} gives the items of a leaf one code row, and ids.collisions="
                f"{self.ids.collisions} looks for free codes; set ids.collisions=suffix (or keep)"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _copies(cls, values: Any) -> Any:
        """Replace `same_as: other` by the settings of that modality."""
        features = dict(values.get("features") or {}) if isinstance(values, Mapping) else {}
        for name, given in features.items():
            other = given.get("same_as") if isinstance(given, Mapping) else None
            if other in features and "same_as" not in features[other]:
                kind = features[other].get("kind", other if other in ("text", "image") else "auto")
                features[name] = {**features[other], "kind": kind}
        return {**values, "features": features} if features else values

    @property
    def views(self) -> dict[str, tuple[str, ...]]:
        """Return view -> streams; one view per stream unless `ids.views` says otherwise."""
        return dict(self.ids.views) or {name: (name,) for name in self.streams}

    @property
    def streams(self) -> tuple[str, ...]:
        """Return what gives an item codes: its modalities, or what stands in for them."""
        if self.ids.source == "numbers":
            return (self.ids.source,)
        own = self.ids.source == "tokenizer" and not self.tokenizer.reads_features
        return (self.tokenizer.kind,) if own else self.modalities

    @property
    def tokenized(self) -> tuple[str, ...]:
        """Return the modalities whose features the item tokenizer reads."""
        own = self.family == "generative" and self.ids.source == "tokenizer"
        return self.modalities if own and self.tokenizer.reads_features else ()

    @property
    def encoded(self) -> tuple[str, ...]:
        """Return the modalities whose features the item tokenizer, the generator or a sequential model reads."""
        if self.family == "sequential":
            return self.sequential.reads_features(self.modalities)
        return tuple(dict.fromkeys([*self.tokenized, *([VISUAL] if self.generator.visual_tokens else [])]))


OPEN_KEYS: dict[str, type[BaseModel]] = {"features": FeatureParams}  # a modality is any word


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` laid on it, mappings merged key by key and everything else replaced.

    >>> merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def build(values: Mapping[str, Any]) -> Settings:
    """Return checked Settings from plain values.

    Raises:
        Refused: a key is unknown (the nearest real one is named), or a value is not allowed; all faults in one message.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise Refused("; ".join(explain(fault, Settings, OPEN_KEYS) for fault in error.errors())) from error


@cache
def _rooms() -> dict[str, set[str]]:
    """Return the last word of every dotted key -> the rooms that have a setting of that name."""
    found: dict[str, set[str]] = {}
    for key, _ in keys(Settings, OPEN_KEYS):
        found.setdefault(key.split(".")[-1], set()).add(key.split(".")[0])
    return found


def short_key(key: str) -> str:
    """Return a dotted key's last word, with its room or modality in front where others have a setting of that name.

    >>> short_key("tokenizer.alpha"), short_key("generator.epochs"), short_key("features.text.encoder")
    ('alpha', 'generator.epochs', 'text.encoder')
    """
    first, last = key.split(".")[0], key.split(".")[-1]
    if first in OPEN_KEYS:
        return key.partition(".")[2]
    return f"{first}.{last}" if _rooms().get(last, set()) - {first} else last


def keys_page() -> str:
    """Return `params/KEYS.md`: every dotted key with its type, default and meaning, from the settings classes."""
    return page(Settings, OPEN_KEYS)
