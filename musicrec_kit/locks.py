"""Locked files: held until they are closed or their process ends, however it ends."""

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)


def locked(path: Path) -> IO[str] | None:
    """Return the file, open and locked, or None if another process holds it."""
    opened = path.open("w")
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        opened.close()
        return None
    return opened


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a lock file: a second process that wants the same stage waits here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = locked(path)
    if opened is None:
        log.info("waiting for another process that makes %s", path.parent.name)
        opened = path.open("w")
        fcntl.flock(opened, fcntl.LOCK_EX)
    with opened:
        yield
