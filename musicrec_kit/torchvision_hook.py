"""Let torchvision import beside a CPU build of torch.

PyPI's torchvision is built against CUDA; beside CPU torch its compiled part does not load and `import torchvision` dies
with "operator torchvision::nms does not exist", and transformers and open_clip with it. Declaring the two operators
before that import is enough for everything the kit uses (transforms). On a CUDA machine the hook does nothing.
"""

import ctypes
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

OPERATORS = ("nms", "qnms")
_libraries: list[object] = []  # torch.library.Library objects live as long as somebody holds them


class _DeclareOperators(importlib.abc.MetaPathFinder):
    """Run once, when somebody first imports torchvision; then leave."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            _declare()
        return None


def _declare() -> None:
    import torch

    if torch.version.cuda is not None or getattr(torch.version, "hip", None) is not None or _loads():
        return
    library = torch.library.Library("torchvision", "DEF")
    for operator in OPERATORS:
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _libraries.append(library)


def _loads() -> bool:
    """Return whether torchvision's compiled part loads beside this torch: a matching build declares the operators."""
    spec = importlib.machinery.PathFinder.find_spec("torchvision")
    folders = (spec.submodule_search_locations if spec else None) or []
    compiled = [file for folder in folders for file in Path(folder).glob("_C*.so")]
    try:
        for file in compiled:
            ctypes.CDLL(str(file))
    except OSError:
        return False
    return bool(compiled)


def install() -> None:
    """Put the hook in front, unless torchvision is imported already or the hook is there. Costs nothing until then."""
    if "torchvision" not in sys.modules and not any(isinstance(f, _DeclareOperators) for f in sys.meta_path):
        sys.meta_path.insert(0, _DeclareOperators())
