"""Pictures come from inside their root or not at all."""

import io
import tarfile

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from musicrec_kit.data.images import ImageStore, inside
from musicrec_kit.params import Refused


def picture(colour, mode="RGB", kind="png") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (4, 3), colour).save(buffer, kind)
    return buffer.getvalue()


def add(archive, name, content, **fields):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    (root / "deep").mkdir(parents=True)
    (root / "1.png").write_bytes(picture((255, 0, 0)))
    (root / "deep" / "2.PNG").write_bytes(picture((0, 255, 0)))
    (root / "notes.txt").write_text("no picture")
    (tmp_path / "secret.png").write_bytes(picture((0, 0, 255)))
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    return root


@pytest.fixture
def tar(tmp_path):
    with tarfile.open(tmp_path / "pictures.tar", "w") as archive:
        add(archive, "./1.png", picture((255, 0, 0)))
        add(archive, "deep/2.PNG", picture((0, 255, 0)))
        add(archive, "notes.txt", b"no picture")
        add(archive, "../secret.png", picture((0, 0, 255)))
        add(archive, "/etc/secret.png", picture((0, 0, 255)))
        add(archive, "link.png", b"", type=tarfile.SYMTYPE, linkname="../secret.png")
    return tmp_path / "pictures.tar"


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_folder_and_tar_give_the_same(kind, request):
    store = ImageStore(request.getfixturevalue(kind))
    assert store.kind == kind
    assert store.names == ("1.png", "deep/2.PNG")
    image = store.open("1.png")
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (4, 3), (255, 0, 0))
    assert store.open("deep/2.PNG").getpixel((0, 0)) == (0, 255, 0)
    assert store.match(["2", "1", "deep/2", "3", ".."]) == ["deep/2.PNG", "1.png", "deep/2.PNG", None, None]
    assert store.existing(["1.png", None, "3.png", "../secret.png"]) == (["1.png", None, None, None], 2)


TRAPS = ["../secret.png", "deep/../../secret.png", "/etc/secret.png", "link.png", "..\\secret.png", "C:/1.png"]
TRAPS += ["", ".", "deep", "a\0b"]


@pytest.mark.parametrize("kind", ["folder", "tar"])
@pytest.mark.parametrize("name", TRAPS)
def test_no_name_leads_out(kind, name, request):
    root = request.getfixturevalue(kind)
    store = ImageStore(root)
    assert not store.has(name)
    with pytest.raises(Refused, match="is not in"):
        store.open(name)
    # the absolute path of a file that is really there
    assert not store.has(str(root.parent / "secret.png"))


@given(st.text("./\\a:C", max_size=8))
@example(".\\C:")
def test_inside_gives_only_relative_names_without_dots(name):
    plain = inside(name)
    assert plain is None or (not plain.startswith(("/", "a:", "C:")) and ".." not in plain.split("/"))


def test_transparent_parts_are_white(folder):
    (folder / "clear.png").write_bytes(picture((0, 0, 0, 0), "RGBA"))
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([10, 20, 30] * 256)
    palette.save(folder / "palette.png", transparency=0)
    Image.new("L", (2, 2), 7).save(folder / "grey.png")
    store = ImageStore(folder)
    assert store.open("clear.png").getpixel((0, 0)) == (255, 255, 255)
    assert store.open("palette.png").getpixel((0, 0)) == (255, 255, 255)
    assert store.open("grey.png").getpixel((0, 0)) == (7, 7, 7)


def test_broken_pictures_and_roots_are_refused(folder, tmp_path):
    whole = picture((1, 2, 3), kind="jpeg")
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("hello")
    store = ImageStore(folder)
    for name in ("cut.jpg", "text.jpg"):
        with pytest.raises(Refused, match=f"'{name}' .* is not a readable picture"):
            store.open(name)
    with pytest.raises(Refused, match="nothing at"):
        ImageStore(tmp_path / "absent")
    (tmp_path / "zip.tar").write_bytes(np.arange(200, dtype=np.uint8).tobytes())
    with pytest.raises(Refused, match="neither a folder nor a plain tar"):
        ImageStore(tmp_path / "zip.tar").names  # noqa: B018


def test_no_pictures_at_all():
    store = ImageStore(None)
    assert (store.kind, store.names, store.has("1.png"), store.match(["1"])) == ("none", (), False, [None])
