"""What a person reads about settings: which key was meant, why a value was refused, and the page of all keys."""

import difflib
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

# words that users of the lineage's code type, and what the kit calls them
ALIASES = {"codebook_size": "codes", "num_emb_list": "codes", "e_dim": "dim", "num_beams": "beam", "beam_width": "beam"}


def nearest(word: str, known: list[str]) -> str:
    """Return the known word nearest to `word`, or an empty string.

    >>> nearest("codebok_size", ["codes", "levels", "lr"])
    'codes'
    """
    for alias in difflib.get_close_matches(word, ALIASES, 1, 0.8):
        if ALIASES[alias] in known:
            return ALIASES[alias]
    return next(iter(difflib.get_close_matches(word, known, 1, 0.4)), "")


def fields_at(root: type[BaseModel], path: list[str], open_keys: dict[str, type[BaseModel]]) -> list[str]:
    """Return the field names of the settings class at a dotted path below `root`; empty where there is none.

    Args:
        open_keys: fields of `root` whose keys are the user's own words, with the class of what stands under each.
    """
    model: Any = root
    for part in path:
        annotation = model.model_fields[part].annotation if part in getattr(model, "model_fields", {}) else None
        model = annotation if hasattr(annotation, "model_fields") else None
    if path and path[0] in open_keys:
        model = open_keys[path[0]]
    return list(getattr(model, "model_fields", {}))


def explain(fault: Any, root: type[BaseModel], open_keys: dict[str, type[BaseModel]]) -> str:
    """Return one of pydantic's faults as a sentence: the setting, what was found, and the nearest real one."""
    path = [str(part) for part in fault["loc"]]
    if fault["type"] == "extra_forbidden":
        known = fields_at(root, path[:-1], open_keys)
        hint = nearest(path[-1], known)
        dotted = ".".join([*path[:-1], hint])
        return f"unknown setting {'.'.join(path)}: " + (
            f"did you mean {dotted}?" if hint else f"known here: {', '.join(known)}"
        )
    return f"{'.'.join(path) or 'settings'}: {fault['msg']}, found {fault['input']!r}"


def keys(model: type[BaseModel], open_keys: dict[str, type[BaseModel]], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give every dotted key with its pydantic field; the user's own words are written MODALITY."""
    for name, field in model.model_fields.items():
        inner = open_keys.get(name, field.annotation)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from keys(inner, {}, f"{prefix}{name}." + ("MODALITY." if name in open_keys else ""))
        else:
            yield f"{prefix}{name}", field


def page(root: type[BaseModel], open_keys: dict[str, type[BaseModel]]) -> str:
    """Return a Markdown page of every dotted key with its type, default and meaning."""
    lines = [
        "# Settings",
        "",
        "Generated from `musicrec_kit/params.py` by `make keys`. Use them as `--set KEY=VALUE` or in YAML.",
        "",
        "| key | values | default | meaning |",
        "|---|---|---|---|",
    ]
    for key, field in keys(root, open_keys):
        annotation = field.annotation
        kind = annotation.__name__ if isinstance(annotation, type) else str(annotation)
        kind = kind.replace("typing.", "").replace("Literal", "").replace("|", "or")
        default = field.get_default(call_default_factory=True)
        lines.append(f"| `{key}` | {kind} | `{default}` | {(field.description or '').replace('|', 'or')} |")
    return "\n".join(lines) + "\n"
