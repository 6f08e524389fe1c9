"""Data: sources, filters, splits and pictures. One call gives a Dataset.

dataset = load_dataset(settings.data, "ml_posters", data_root, folder)
examples = train_prefixes(dataset.sequences(), history=20)
"""

from pathlib import Path

from musicrec_kit.data import sources
from musicrec_kit.data.assemble import assemble
from musicrec_kit.data.dataset import Dataset, fingerprint
from musicrec_kit.data.images import ImageStore
from musicrec_kit.data.lcrec import export_lcrec
from musicrec_kit.data.raw import RawTables
from musicrec_kit.data.splits import Examples, Sequences, held_out, train_prefixes
from musicrec_kit.params import DataParams

__all__ = [
    "Dataset",
    "Examples",
    "ImageStore",
    "RawTables",
    "Sequences",
    "export_lcrec",
    "fingerprint",
    "held_out",
    "load_dataset",
    "source_files",
    "train_prefixes",
]


def load_dataset(params: DataParams, name: str, data_root: Path | None, folder: Path) -> Dataset:
    """Return the Dataset that the settings describe.

    Args:
        params: where interactions and items come from and which are kept.
        name: the data set's name, for its manifest.
        data_root: folder that relative file names start from; None: the current folder.
        folder: where source "demo" writes its pictures.

    Raises:
        Refused: a file or column is missing or unreadable, or a filter leaves nothing.
    """
    return assemble(sources.read(params, data_root, folder), params, name)


def source_files(params: DataParams, data_root: Path | None) -> list[Path]:
    """Return the files that a data set is read from; a folder of pictures counts as one."""
    names = [getattr(params, kind) for kind in ("interactions", "items", "item2id", "tags", "descriptions", "images")]
    return [(data_root or Path()) / name for name in names if name]
