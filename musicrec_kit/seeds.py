"""Seeds: one number per run, and a named child of it for every use of randomness. The global state is never used."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def child(seed: int, *names: str | int) -> int:
    """Return a seed of 63 bits that depends on `seed` and on every name, the same on every machine.

    >>> child(0, "tokenizer") == child(0, "tokenizer"), child(0, "tokenizer") == child(1, "tokenizer")
    (True, False)
    """
    text = "/".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return a numpy generator of its own for (seed, names)."""
    return np.random.default_rng(child(seed, *names))


def torch_generator(seed: int, *names: str | int, device: str = "cpu") -> "torch.Generator":
    """Return a torch generator of its own for (seed, names)."""
    import torch

    return torch.Generator(device=device).manual_seed(child(seed, *names))


@contextmanager
def torch_seed(seed: int, *names: str | int) -> Iterator[None]:
    """Seed torch's global generators inside the block and give them back as they were (dropout takes no generator)."""
    import torch

    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(child(seed, *names))
        yield
