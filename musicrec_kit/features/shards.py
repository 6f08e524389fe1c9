"""Long extractions in parts: a killed one continues where it was and gives the same bytes."""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from musicrec_kit import distributed, runs

log = logging.getLogger(__name__)

SHARD = 256  # items at least in a shard: what a kill may lose


def encode_in_shards(
    order: np.ndarray,
    batch: int,
    read: Callable[[np.ndarray], Any],
    encode: Callable[[Any], tuple[np.ndarray, np.ndarray]],
    n_items: int,
    folder: Path | None,
    request: str,
    name: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (float32 [n_items, dim], present bool [n_items]) of the items in `order`, others absent.

    The processes of torchrun share the shards that are missing; a kill costs those of all but the first.

    Args:
        order: items in the order in which they are encoded; batches are cut from it, whatever is done already.
        read: items of a batch -> what `encode` wants; runs one batch ahead in a thread.
        encode: -> (rows [batch, dim], present [batch]).
        folder: for shards; None keeps nothing.
        request: what was asked, as a key; shards of another request are made anew.
    """
    size = batch * max(1, -(-SHARD // batch))
    shards = [order[start : start + size] for start in range(0, len(order), size)]
    done = {
        number: found for number in range(len(shards)) if (found := _read_shard(folder, number, request)) is not None
    }
    done = distributed.broadcast(done)
    own = set(distributed.own_parts([number for number in range(len(shards)) if number not in done]))
    if done:
        log.info("%s: %d of %d shards are there already", name, len(done), len(shards))
    todo = [(number, shard[start : start + batch]) for number, shard in enumerate(shards) if number in own
            for start in range(0, len(shard), batch)]  # fmt: skip
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    with tqdm(total=sum(len(items) for _, items in todo), desc=name, unit="item", mininterval=1.0, leave=False) as bar:
        for index, ((number, items), ready) in enumerate(zip(todo, _ahead(read, [i for _, i in todo]), strict=True)):
            parts.append(encode(ready))
            bar.update(len(items))
            if index + 1 == len(todo) or todo[index + 1][0] != number:
                done[number] = (
                    np.concatenate([rows for rows, _ in parts]),
                    np.concatenate([mask for _, mask in parts]),
                )
                _write_shard(folder, number, request, done[number])
                parts = []
    for others in distributed.gather({number: done[number] for number in own}):
        done |= others
    return _assemble(shards, done, n_items)


def _ahead(read: Callable[[np.ndarray], Any], batches: Sequence[np.ndarray]) -> Iterator[Any]:
    """Yield `read(batch)` in order, reading one batch ahead: decoding pictures and the model share the processor."""
    if not batches:
        return
    with ThreadPoolExecutor(1) as reader:
        pending = [reader.submit(read, batch) for batch in batches[:1]]
        for following in [*batches[1:], None]:
            ready = pending.pop().result()
            if following is not None:
                pending.append(reader.submit(read, following))
            yield ready


def _assemble(
    shards: Sequence[np.ndarray], done: dict[int, tuple[np.ndarray, np.ndarray]], n_items: int
) -> tuple[np.ndarray, np.ndarray]:
    width = done[0][0].shape[1] if done else 1
    matrix, present = np.zeros((n_items, width), np.float32), np.zeros(n_items, bool)
    for number, shard in enumerate(shards):
        matrix[shard], present[shard] = done[number]
    return matrix, present


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.safetensors"


def _read_shard(folder: Path | None, number: int, request: str) -> tuple[np.ndarray, np.ndarray] | None:
    if folder is None or not _path(folder, number).is_file():
        return None
    if runs.read_tensor_metadata(_path(folder, number)).get("request") != request:
        return None
    tensors = runs.read_tensors(_path(folder, number))
    return tensors["features"], tensors["present"]


def _write_shard(folder: Path | None, number: int, request: str, shard: tuple[np.ndarray, np.ndarray]) -> None:
    if folder is not None:
        tensors = {"features": shard[0], "present": shard[1]}
        runs.write_tensors(_path(folder, number), tensors, {"request": request})
