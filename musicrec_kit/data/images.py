"""Pictures of items, in a folder or a tar file; a name never leads out of it."""

import re
import tarfile
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO

from PIL import Image

from musicrec_kit.params import Refused

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


class ImageStore:
    """Pictures under one root: a folder, an uncompressed tar, or nothing (`root` None: no picture is there).

    A picture is read from disk when it is opened; of a tar, the table of contents is read once.
    """

    def __init__(self, root: Path | None) -> None:
        """Open a store.

        Raises:
            Refused: `root` is neither a folder nor a file.
        """
        if root is not None and not root.exists():
            raise Refused(f"images: nothing at {root}; set data.images to a folder or a tar of pictures")
        self.root = root
        self.kind = "none" if root is None else "folder" if root.is_dir() else "tar"

    @cached_property
    def _members(self) -> dict[str, tuple[int, int]]:
        """Name -> (offset, bytes) of each regular file in the tar; links and names that lead out are not listed."""
        assert self.root is not None
        try:
            with tarfile.open(self.root, "r:") as opened:
                files = [member for member in opened if member.isreg() and not member.issparse()]
        except (tarfile.TarError, OSError) as error:
            raise Refused(f"images: {self.root} is neither a folder nor a plain tar ({error}); unpack it") from error
        return {plain: (m.offset_data, m.size) for m in files if (plain := inside(m.name)) is not None}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of all pictures (by extension), sorted; folders are searched to any depth."""
        if self.root is None:
            return ()
        if self.kind == "tar":
            found: Iterable[str] = self._members
        else:
            files = ((path.relative_to(self.root).as_posix(), path) for path in self.root.rglob("*") if path.is_file())
            found = (name for name, path in files if not path.is_symlink() or self.has(name))
        return tuple(sorted(name for name in found if PurePosixPath(name).suffix.lower() in EXTENSIONS))

    def has(self, name: str | None) -> bool:
        """Return whether a picture of this name is there, inside the root."""
        return self._place(name) is not None

    def _place(self, name: str | None) -> Path | tuple[int, int] | None:
        """Return the file, or the part of the tar, that a name stands for."""
        plain = inside(name) if isinstance(name, str) else None
        if self.root is None or plain is None:
            return None
        if self.kind == "tar":
            return self._members.get(plain)
        root = self.root.resolve()
        # resolved: a symbolic link inside the folder must not lead out of it either
        path = (root / plain).resolve()
        return path if path.is_relative_to(root) and path.is_file() else None

    def open(self, name: str) -> Image.Image:
        """Return a picture in RGB; transparent parts become white, as shops show them.

        Raises:
            Refused: the name is not there, leads out of the root, or the bytes are no picture.
        """
        place = self._place(name)
        if place is None:
            raise Refused(
                f"images: {name!r} is not in {self.root}; see data.images, or keep only items with data.has_image=true"
            )
        try:
            with self._bytes(place) as opened, Image.open(opened) as image:
                return _rgb(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise Refused(
                f"images: {name!r} in {self.root} is not a readable picture ({error}); replace or remove it"
            ) from error

    def _bytes(self, place: Path | tuple[int, int]) -> IO[bytes]:
        if isinstance(place, Path):
            return place.open("rb")
        assert self.root is not None
        # opened anew each time: the store can then be shared by threads and sent to worker processes
        with self.root.open("rb") as archive:
            archive.seek(place[0])
            return BytesIO(archive.read(place[1]))

    def match(self, raw_ids: Iterable[str]) -> list[str | None]:
        """Return for each raw id the picture whose name is `<raw id>.<extension>`, anywhere under the root, or None.

        The path without its extension counts before the file's name alone; a file's name that stands in two folders, or
        twice in one with several extensions, is decided by sorted order.
        """
        of_path: dict[str, str] = {}
        of_stem: dict[str, str] = {}
        for name in self.names:
            path = PurePosixPath(name)
            of_path.setdefault(path.with_suffix("").as_posix(), name)
            of_stem.setdefault(path.stem, name)
        return [of_path.get(raw_id) or of_stem.get(raw_id) for raw_id in raw_ids]

    def existing(self, names: Iterable[str | None]) -> tuple[list[str | None], int]:
        """Return the names with those that are not there as None, and how many those are."""
        known = set(self.names)
        kept = [None if name is None else plain if (plain := inside(name)) in known else None for name in names]
        return kept, Counter(given is not None and found is None for given, found in zip(names, kept, strict=True))[
            True
        ]


def inside(name: str) -> str | None:
    """Return a relative name in plain form, or None where it could lead out of its root.

    >>> inside("./a/1.jpg"), inside("../1.jpg"), inside("/etc/passwd"), inside("C:/1.jpg")
    ('a/1.jpg', None, None, None)
    """
    slashed = name.replace("\\", "/")
    path = PurePosixPath(slashed)
    plain = path.as_posix()
    if not path.name or path.is_absolute() or ".." in path.parts or "\0" in plain or re.match(r"[A-Za-z]:", plain):
        return None
    return plain


def _rgb(image: Image.Image) -> Image.Image:
    if "A" in image.getbands() or "transparency" in image.info:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB")
