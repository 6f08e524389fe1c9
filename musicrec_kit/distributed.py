"""Several processes that work as one, started by torchrun: who writes, who takes which rows, how gradients are summed.

Every process runs the same program. The first alone writes; a stage in which all of them work (training of the
generator, features, ranking) splits its rows among them, the others are made by the first while the rest wait.
Without torchrun there is one process, and every function here does nothing or gives its argument back.
"""

import functools
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from accelerate import PartialState
    from torch import Tensor, nn

T = TypeVar("T")

PROCESSES = "MUSICREC_PROCESSES"  # how many a job starts by itself for a stage in which all work
LONG = timedelta(days=30)  # a process waits while the first makes what it makes alone


def size() -> int:
    """Return how many processes torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def number() -> int:
    """Return which of them this one is, from 0."""
    return int(os.environ.get("RANK", "0")) if size() > 1 else 0


def on_this_machine() -> int:
    """Return which of this machine's processes this one is, from 0: the GPU that is its own."""
    return int(os.environ.get("LOCAL_RANK", "0")) if size() > 1 else 0


def is_first() -> bool:
    """Say whether this process is the one that writes and talks."""
    return number() == 0


@functools.cache
def _state() -> "PartialState":
    """Return the group of all processes, made when it is first asked for."""
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=LONG)
    assert state.num_processes == size(), f"torchrun started {size()} processes, accelerate sees {state.num_processes}"
    return state


def broadcast(value: T) -> T:
    """Return the first process's value in all of them; it has to go through pickle."""
    if size() == 1:
        return value
    import torch.distributed

    _state()
    box: list[Any] = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]  # type: ignore[no-any-return]


def gather(value: T) -> list[T]:
    """Return the values of all processes, in their order, in all of them."""
    if size() == 1:
        return [value]
    from accelerate.utils import gather_object

    _state()
    return gather_object([value])  # type: ignore[no-any-return]


def summed(tensor: "Tensor") -> "Tensor":
    """Return the sum of a tensor over all processes, in all of them."""
    if size() == 1:
        return tensor
    from accelerate.utils import reduce

    _state()
    return reduce(tensor.clone(), reduction="sum")  # type: ignore[no-any-return]


def sum_gradients(model: "nn.Module") -> None:
    """Replace every gradient by its sum over all processes; one message for all of them."""
    if size() == 1:
        return
    import torch

    used = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in used:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = summed(torch.cat([parameter.grad.flatten() for parameter in used if parameter.grad is not None]))
    parts = flat.split([parameter.numel() for parameter in used])
    for parameter, part in zip(used, parts, strict=True):
        assert parameter.grad is not None
        parameter.grad.copy_(part.view_as(parameter))


def own_rows(n: int) -> slice:
    """Return this process's share of n rows: every row is one process's.

    >>> own_rows(5)
    slice(0, 5, None)
    """
    return slice(number() * n // size(), (number() + 1) * n // size())


def own_parts(parts: Sequence[T]) -> Sequence[T]:
    """Return every part that is this process's turn."""
    return parts[number() :: size()]


def same_tensors(value: T) -> T:
    """Return the first process's value, tensors in containers, in all of them, on the CPU."""
    if size() == 1:
        return value
    import torch

    written = io.BytesIO()
    if is_first():
        torch.save(value, written)
    return torch.load(io.BytesIO(broadcast(written.getvalue())), map_location="cpu")  # type: ignore[no-any-return]


def by_the_first(make: Callable[[], T]) -> T:
    """Let the first process make something, while the others wait, and return it in all of them."""
    return broadcast(make() if is_first() else None)  # type: ignore[return-value]


def by_all(make: Callable[[Callable[[Path], None]], T], build: Callable[[Path], None]) -> T:
    """Let all processes build what the first one keeps, and return it in all of them.

    Args:
        make: builder -> what is made; gives the builder a folder, or finds what it would make and does not call it.
        build: writes into a folder; what is written by another than the first is thrown away.
    """
    if size() == 1:
        return make(build)
    if not is_first():
        if broadcast(False):
            with tempfile.TemporaryDirectory() as folder:
                build(Path(folder))
        return broadcast(None)  # type: ignore[return-value]
    begun = False

    def announced(folder: Path) -> None:
        nonlocal begun
        begun = broadcast(True)
        build(folder)

    made = make(announced)
    if not begun:
        broadcast(False)
    return broadcast(made)


def wanted() -> int:
    """Return how many processes this one is to start for a stage in which all work; 1: none, or they are there."""
    return int(os.environ.get(PROCESSES, "1")) if size() == 1 else 1


def launch(arguments: Sequence[str], processes: int) -> int:
    """Run `musicrec` with these arguments in several processes of this machine, and return the exit code."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // processes))
    return subprocess.run(
        [*torchrun, "-m", "musicrec_kit", *arguments], env={**os.environ, "OMP_NUM_THREADS": threads}, check=False
    ).returncode
