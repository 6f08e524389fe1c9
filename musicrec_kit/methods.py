"""A method is a row of settings over six axes, read from `params/methods`; no method is named in code.

The six axes: family, features, item tokenizer, ID layout, tasks and stages, ranking. Files in, `Settings` out;
precedence is size < dataset < method < run.
"""

import copy
import functools
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import yaml

from musicrec_kit.params import IdsParams, Refused, Settings, Size, build, merge, short_key
from musicrec_kit.settings_help import nearest

# top-level keys of a data set's file that describe its files, and where they live in Settings
DATASET_KEYS = (
    "source",
    "interactions",
    "items",
    "item2id",
    "images",
    "tags",
    "descriptions",
    "columns",
    "demo",
    "expected",
)
SECTIONS = tuple(name for name in Settings.model_fields)


def folder(kind: str) -> Path:
    """Return the folder of shipped YAML files: `params/<kind>` of the checkout, else the copy in the package."""
    package = Path(__file__).parent
    checkout = package.parent / "params"
    return (checkout if checkout.is_dir() else package / "_params") / kind


def names(kind: str) -> list[str]:
    """Return the names of the shipped YAML files of a kind (datasets, methods, sizes, sweeps, published)."""
    return sorted(path.stem for path in folder(kind).glob("*.yaml"))


@functools.lru_cache(maxsize=256)
def _parsed(text: str) -> Any:
    """Parse YAML; the cells of a sweep read the same few files again and again."""
    return yaml.safe_load(text)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; numbers such as `1e-3`, which YAML reads as text, are left to the settings classes."""
    try:
        value = copy.deepcopy(_parsed(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise Refused(f"{path} is not valid YAML: {error}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refused(f"{path} must hold a mapping of settings, found {type(value).__name__}")
    return value


def find(kind: str, name: str) -> Path:
    """Return the YAML file of a name in `params/<kind>`, or of a path to such a file anywhere."""
    path = folder(kind) / f"{name}.yaml"
    if path.is_file():
        return path
    if Path(name).suffix in (".yaml", ".yml") and Path(name).is_file():
        return Path(name)
    hint = nearest(name, names(kind))
    did_you_mean = f"; did you mean {hint!r}?" if hint else ""
    raise Refused(
        f"no {kind.removesuffix('s')} {name!r}: it is neither a file nor one of {', '.join(names(kind))}{did_you_mean}"
    )


def dataset_settings(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a data set's file as a part of Settings: file names move to `data`, the others to their rooms."""
    settings: dict[str, Any] = {"data": dict(raw.get("data") or {})}
    for key, value in raw.items():
        if key == "data" or key == "name":
            continue
        if key in DATASET_KEYS:
            settings["data"][key] = value
        elif key == "features":
            settings["features"] = {
                m: {"encoder": "file", "file": v} if isinstance(v, str) else v for m, v in value.items()
            }
        elif key == "ids" and not set(value) & set(IdsParams.model_fields):
            settings["ids"] = {"files": value}
        elif key in SECTIONS:
            settings[key] = value
        else:
            hint = nearest(key, [*DATASET_KEYS, *SECTIONS, "name"])
            raise Refused(f"data set file: unknown key {key!r}" + (f"; did you mean {hint!r}?" if hint else ""))
    return settings


def parse_set(assignments: list[str]) -> dict[str, Any]:
    """Return `KEY=VALUE` strings as a nested mapping; values are YAML.

    >>> parse_set(["tokenizer.codes=64", "generator.tasks=[next, align]"])
    {'tokenizer': {'codes': 64}, 'generator': {'tasks': ['next', 'align']}}
    """
    assigned: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise Refused(f"--set {text!r}: expected KEY=VALUE, for example --set tokenizer.codes=64")
        inner = yaml.safe_load(value) if value.strip() else None
        assigned = merge(assigned, nested(key.strip(), inner))
    return assigned


def nested(key: str, value: Any) -> dict[str, Any]:
    """Return the mapping in which a dotted key has a value.

    >>> nested("tokenizer.codes", 64)
    {'tokenizer': {'codes': 64}}
    """
    for part in reversed(key.split(".")):
        value = {part: value}
    return cast(dict[str, Any], value)


def sweep_values(size: Size, name: str) -> list[Any]:
    """Return the values that a size file gives the sweeps for one name, such as the codebook sizes of a figure."""
    values = read_yaml(find("sizes", size)).get("sweep") or {}
    if name not in values:
        raise Refused(f"size {size} has no sweep values {name!r}; it has {', '.join(values) or 'none'}")
    return list(values[name])


def method_values(name: str) -> dict[str, Any]:
    """Return a method's YAML with its chain of `base:` files merged under it; the `paper:` block stays apart."""
    raw = read_yaml(find("methods", name))
    base = raw.pop("base", None)
    return merge(method_values(base), raw) if base else raw


def resolve(
    dataset: str, method: str = "musicrec", size: Size = "small", overrides: Mapping[str, Any] | None = None
) -> Settings:
    """Return the settings of a run: size < dataset < method (< its `paper:` block at size paper) < run.

    A method's `features` stand below the data set's: it names the encoder of a modality, and a method says only what a
    modality of its own is made of where the data set says nothing.

    >>> resolve("demo_tiny", "musicrec", "smoke").tokenizer.kind
    'shared_specific'
    """
    method_part = method_values(method)
    paper = method_part.pop("paper", {})
    size_part = read_yaml(find("sizes", size))
    size_part.pop("sweep", None)  # the values that sweeps take from this size
    own_features = {"features": method_part.pop("features", {})}
    parts = [size_part, own_features, dataset_settings(read_yaml(find("datasets", dataset))), method_part]
    parts += [paper if size == "paper" else {}, dict(overrides or {})]
    values: dict[str, Any] = {}
    for part in parts:
        values = merge(values, part)
    return build(values)


def variant_name(overrides: Mapping[str, Any]) -> str:
    """Return "" or "+key=value,...": a readable name of what differs from the method's file, or a hash when long.

    >>> variant_name({"tokenizer": {"alpha": 0}})
    '+alpha=0'
    """
    changed = sorted(leaves(overrides))
    if not changed:
        return ""
    text = "+" + ",".join(f"{short_key(key)}={value}" for key, value in changed)
    if len(text) > 60 or any(c in text for c in " /\\[]{}'\"()"):
        return "+" + hashlib.sha256(repr(changed).encode()).hexdigest()[:10]
    return text


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give (dotted key, value) of every leaf of a nested mapping."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def data_root(dataset: str, given: str | Path | None = None) -> Path:
    """Return the folder that a data set's relative paths start from: the one given, else that of its YAML file."""
    if given is not None:
        root = Path(given).expanduser()
        if not root.is_dir():
            raise Refused(f"--data-root {given} is not a folder")
        return root.resolve()
    return find("datasets", dataset).resolve().parent


def dataset_name(dataset: str) -> str:
    """Return the name of a data set: a shipped name, the `name:` in a YAML file, or that file's stem."""
    path = find("datasets", dataset)
    return str(read_yaml(path).get("name") or path.stem)


def method_name(method: str) -> str:
    """Return the name of a method: a shipped name, or the stem of a YAML file."""
    return find("methods", method).stem


def home() -> Path:
    """Return the folder of relative output paths: $MUSICREC_HOME, else the nearest checkout above, else here."""
    if "MUSICREC_HOME" in os.environ:
        return Path(os.environ["MUSICREC_HOME"])
    here = Path.cwd()
    for place in (here, *here.parents):
        if (place / "pyproject.toml").is_file() and (place / "musicrec_kit").is_dir():
            return place
    return here
