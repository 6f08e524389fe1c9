"""Pictures of the demo products: painted layers with light, shadow, pattern and material, at any size."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from musicrec_kit.data.demo_emblems import emblem
from musicrec_kit.data.demo_kinds import KINDS
from musicrec_kit.data.demo_shapes import Part, Sketch

# red, green, blue of 255; far apart from each other, and none of them a tint of the background
COLOURS = {
    "blue": (44, 105, 214),
    "yellow": (246, 196, 38),
    "red": (214, 48, 49),
    "green": (46, 158, 84),
    "purple": (132, 66, 186),
    "orange": (242, 128, 28),
    "pink": (244, 132, 178),
    "black": (52, 54, 60),
}
PATTERNS = ("plain", "stripes", "dots", "checks", "zigzag")
FINISHES = ("gloss", "brushed", "grain", "weave", "pebbled")
FIXED_PAINTS = {
    "dark": (58, 60, 68),
    "steel": (186, 192, 201),
    "cream": (250, 246, 236),
    "tan": (196, 150, 102),
    "glass": (96, 140, 170),
    "glow": (255, 226, 150),
    "leaf": (110, 140, 92),
}
WASH = (0.22, 0.30)  # share of the product's colour in the wall behind it
WALLS = ((246, 242, 233), (238, 243, 246), (245, 241, 247))  # warm, cool and lilac white
INK = np.array((74, 80, 94), dtype=np.float32)
LIGHT = np.array((-0.42, -0.55, 0.72), dtype=np.float32)  # from the upper left, towards the viewer
# half way between the light and the viewer
HALF = (LIGHT + np.array((0, 0, 1), dtype=np.float32)) / np.linalg.norm(LIGHT + np.array((0, 0, 1), dtype=np.float32))
TURNS = {"guitar": (18, 48), "umbrella": (-22, 22), "watch": (-28, 28), "sneaker": (-14, 6), "cap": (-12, 8)}


@dataclass(frozen=True)
class Look:
    """What a picture shows; an emblem of the purpose only where one is given."""

    kind: str
    colour: str
    pattern: str
    finish: str
    purpose: str | None = None


def draw_picture(look: Look, side: int, rng: np.random.Generator) -> Image.Image:
    """Return an RGB picture of side x side pixels; `rng` decides turn, proportions, shade and background."""
    colour = _own_shade(look.colour, rng)
    canvas = _background(colour, side, rng)
    if look.purpose is not None:
        canvas = _wallpaper(canvas, look.purpose, rng)
    sketch = Sketch(
        side,
        rng,
        turn=rng.uniform(*TURNS.get(look.kind, (-7, 7))),
        size=rng.uniform(0.355, 0.405),
        stretch=rng.uniform(0.94, 1.06),
    )
    sketch.middle = (0.5 + rng.uniform(-0.015, 0.015), 0.49 + rng.uniform(-0.015, 0.015))
    KINDS[look.kind](sketch)
    canvas = _drop_shadow(canvas, sketch.parts)
    skin, relief = _pattern(look.pattern, side, rng), _texture(look.finish, side, sketch.turn, rng)
    for part in sketch.parts:
        canvas = _paint(
            canvas, part, _surface(part.paint, colour, skin, relief, look.pattern), _shine(part.paint, look.finish)
        )
    if look.purpose is not None:
        canvas = _badge(canvas, look.purpose)
    return Image.fromarray(np.clip(canvas + 0.5, 0, 255).astype(np.uint8))


def write_pictures(
    looks: list[Look], names: list[str], folder: Path, side: int, rngs: list[np.random.Generator]
) -> None:
    """Draw every look into `folder` as a PNG file of the given name."""
    folder.mkdir(parents=True, exist_ok=True)
    for look, name, rng in zip(looks, names, rngs, strict=True):
        draw_picture(look, side, rng).save(folder / name, format="PNG", compress_level=1)


def _grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y float32[side, side] of the pixels, -1 .. 1."""
    line = (np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1
    return np.broadcast_to(line[None, :], (side, side)), np.broadcast_to(line[:, None], (side, side))


def _background(colour: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Return float32[side, side, 3]: a wall washed with the product's colour, lighter around the upper left."""
    x, y = _grid(side)
    wall = np.array(WALLS[rng.integers(len(WALLS))], dtype=np.float32)
    tint = wall + (colour - wall) * np.float32(rng.uniform(*WASH))
    light = 1.05 - 0.09 * np.sqrt((x + 0.25) ** 2 + (y + 0.35) ** 2)
    return tint * light[:, :, None]


def _drop_shadow(canvas: np.ndarray, parts: list[Part]) -> np.ndarray:
    """Darken the ground to the lower right of the product: a wide soft shadow and a narrow one."""
    side = len(canvas)
    cover = np.max([np.asarray(part.mask) for part in parts], axis=0).astype(np.float32) / 255
    for reach, blur, strength in ((0.045, 0.04, 0.30), (0.012, 0.01, 0.16)):
        shift = round(reach * side)
        moved = np.zeros_like(cover)
        moved[shift:, shift:] = cover[: side - shift, : side - shift]
        canvas = canvas * (1 - strength * gaussian_filter(moved, blur * side, truncate=2.5))[:, :, None]
    return canvas


def _own_shade(name: str, rng: np.random.Generator) -> np.ndarray:
    """Return the colour, a little lighter or darker from product to product."""
    return np.clip(
        np.array(COLOURS[name], dtype=np.float32) * rng.uniform(0.93, 1.05) + rng.uniform(-5, 5, 3), 0, 255
    ).astype(np.float32)


def _surface(paint: str, colour: np.ndarray, skin: np.ndarray, texture: np.ndarray, pattern: str) -> np.ndarray:
    """Return float32[side, side, 3] (or [1, 1, 3]): the paint before light falls on it."""
    if paint in FIXED_PAINTS:
        return np.array(FIXED_PAINTS[paint], dtype=np.float32)[None, None]
    if paint == "deep":
        return (colour * 0.68)[None, None]
    white = np.array((255, 252, 245), dtype=np.float32)
    if paint == "pale":
        return (0.5 * colour + 0.5 * white)[None, None]
    if paint == "plain" or pattern == "plain":
        return colour * texture[:, :, None]
    # tone on tone: an encoder should see the colour before the pattern, which is no part of the process
    pale = 0.7 * colour + 0.3 * white
    return (colour + (pale - colour) * skin[:, :, None]) * texture[:, :, None]


def _pattern(name: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """Return float32[side, side]: 1 where the pattern's pale colour is, with edges one pixel soft."""
    angle, scale = rng.uniform(-0.25, 0.25), rng.uniform(0.9, 1.12)
    x, y = _grid(side)
    u = (x * math.cos(angle) + y * math.sin(angle)) * scale
    v = (y * math.cos(angle) - x * math.sin(angle)) * scale
    pixel = 2 / side
    if name == "stripes":
        distance = 0.042 - np.abs((u / 0.2 + 0.5) % 1 - 0.5) * 0.2
    elif name == "dots":
        row = np.round(v / 0.17)
        distance = 0.052 - np.hypot((u / 0.2 + 0.5 * (row % 2) + 0.5) % 1 - 0.5, (v / 0.17 - row) * 0.85) * 0.2
    elif name == "checks":
        distance = -np.sin(u * np.pi / 0.15) * np.sin(v * np.pi / 0.15) * 0.05
    elif name == "zigzag":
        distance = 0.034 - np.abs((v / 0.24 + 0.36 * np.abs((u / 0.3 + 0.5) % 1 - 0.5) * 2 + 0.5) % 1 - 0.5) * 0.2
    else:
        distance = np.full_like(u, -1)
    return np.clip(distance / pixel + 0.5, 0, 1).astype(np.float32)


def _texture(finish: str, side: int, turn: float, rng: np.random.Generator) -> np.ndarray:
    """Return float32[side, side] around 1: how a material lightens and darkens the paint."""
    x, y = _grid(side)
    angle = math.radians(turn)
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    noise = rng.standard_normal((side, side)).astype(np.float32)
    scale = side / 128
    if finish == "brushed":
        streaks = gaussian_filter(noise, (0.45 * scale, 9 * scale))
        return 1 + 0.045 * streaks / streaks.std() + 0.10 * np.cos(u * 5.0 + v)
    if finish == "grain":
        slow = gaussian_filter(noise, (3 * scale, 14 * scale))
        return 0.97 + 0.075 * np.sin(v * 48 + 2.2 * slow / slow.std()) + 0.04 * np.sin(v * 17 + slow / slow.std())
    if finish == "weave":
        return 0.98 + 0.085 * np.sin(u * 105) * np.sin(v * 105) + 0.02 * noise
    if finish == "pebbled":
        bumps = gaussian_filter(noise, 0.8 * scale)
        return 0.98 + 0.045 * bumps / bumps.std()
    return np.ones((side, side), dtype=np.float32)


def _shine(paint: str, finish: str) -> float:
    """Return the strength of the highlight."""
    if paint in ("glass", "steel"):
        return 0.9
    if paint in ("main", "plain", "deep", "pale"):
        return {"gloss": 0.85, "brushed": 0.5}.get(finish, 0.06)
    return 0.2


def _paint(canvas: np.ndarray, part: Part, surface: np.ndarray, shine: float) -> np.ndarray:
    """Lay one part over the canvas: round it by light on its blurred mask, and let it shade what lies below."""
    side = len(canvas)
    blur = max(part.relief * side * 0.4, 0.6)
    bounds = part.mask.getbbox()
    if bounds is None:
        return canvas
    margin = int(3 * blur) + 3
    left, top = max(bounds[0] - margin, 0), max(bounds[1] - margin, 0)
    window = (slice(top, min(bounds[3] + margin, side)), slice(left, min(bounds[2] + margin, side)))
    cover = np.asarray(part.mask, dtype=np.float32)[window] / 255
    height = gaussian_filter(cover, blur, truncate=2.5)
    down, right = np.gradient(height * blur * 2.4)
    length = np.sqrt(right**2 + down**2 + 1)
    light = (-right * LIGHT[0] - down * LIGHT[1] + LIGHT[2]) / length
    spot = _sharpen(np.clip((-right * HALF[0] - down * HALF[1] + HALF[2]) / length, 0, 1))
    flat = _sharpen(HALF[2])
    lit = surface[window] if surface.shape[0] > 1 else surface
    lit = lit * (0.52 + 0.66 * np.clip(light, 0, 1.3))[:, :, None]
    lit = lit + (255 - lit) * (shine * np.clip(spot - flat, 0, 1) * 0.8)[:, :, None]
    below = canvas[window]
    shade = np.roll(height, (max(1, side // 100), max(1, side // 100)), axis=(0, 1)) * 0.22
    below = below * (1 - shade * (1 - cover))[:, :, None]
    canvas[window] = below + (np.clip(lit, 0, 255) - below) * cover[:, :, None]
    return canvas


def _sharpen(cosine: np.ndarray) -> np.ndarray:
    """Return the 36th power, which is the width of a highlight; by squares, as a power of floats is slow."""
    fourth = np.square(np.square(cosine))
    return fourth * np.square(np.square(np.square(fourth)))


def _wallpaper(canvas: np.ndarray, purpose: str, rng: np.random.Generator) -> np.ndarray:
    """Print the purpose's emblem in pale rows on the background."""
    side = len(canvas)
    shapes, holes = emblem(purpose)
    cover = np.zeros((side, side), dtype=np.float32)
    for row in range(4):
        for column in range(4):
            middle = (0.25 * column + 0.125 * (row % 2) + 0.06, 0.25 * row + 0.125)
            stamp = Sketch(side, rng, size=0.075, middle=middle)
            cover = np.maximum(cover, np.asarray(stamp.mask(shapes, holes), dtype=np.float32) / 255)
    return canvas + (INK - canvas) * (0.2 * cover)[:, :, None]


def _badge(canvas: np.ndarray, purpose: str) -> np.ndarray:
    """Stick a round badge with the purpose's emblem in the lower right corner."""
    side = len(canvas)
    x, y = _grid(side)
    distance = 0.29 - np.hypot(x - 0.66, y - 0.66)
    disc = np.clip(distance * side / 2 + 0.5, 0, 1)
    canvas = canvas * (1 - 0.25 * gaussian_filter(disc, 0.02 * side))[:, :, None]
    canvas = canvas + (np.float32(252) - canvas) * disc[:, :, None]
    stamp = Sketch(side, np.random.default_rng(0), size=0.1, middle=(0.83, 0.83))
    cover = np.asarray(stamp.mask(*emblem(purpose)), dtype=np.float32) / 255
    return canvas + (INK - canvas) * cover[:, :, None]
