"""What is known about items apart from their features: categories, and the true properties of generated items."""

from typing import Any

from musicrec_kit.data import Dataset

TRUE_PROPERTIES = ("kind", "purpose", "colour", "pattern", "material")


def labels_of(dataset: Dataset) -> dict[str, list[Any]]:
    """Return name -> label per item (None: unknown): true properties of generated items, and the last category.

    Labels that are the same for all items, or unknown for all, say nothing and are left out.
    """
    found: dict[str, list[Any]] = {}
    if dataset.manifest.get("source") == "demo" and dataset.images.root is not None:
        from musicrec_kit.data.demo import properties_of

        table = properties_of(dataset.images.root.parent).set_index("raw_id").loc[list(dataset.items["raw_id"])]
        found = {name: table[name].tolist() for name in TRUE_PROPERTIES if name in table}
    found["category"] = [names[-1] if len(names) else None for names in dataset.items["categories"]]
    return {name: values for name, values in found.items() if len({v for v in values if v is not None}) > 1}
