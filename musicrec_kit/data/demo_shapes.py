"""Outlines for the demo pictures, and the sketch that turns them into smooth masks.

Coordinates: x to the right, y down, the middle of the picture is (0, 0); a product fills about -1 .. 1.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

OVERSAMPLING = 3  # masks are drawn at 3 x 3 points per pixel and scaled down (Lanczos)


@dataclass(frozen=True)
class Line:
    """A path with a width, round at its ends."""

    points: np.ndarray
    width: float


@dataclass(frozen=True)
class Part:
    """One layer of a product: where it is (mask, 0 .. 255), what it is painted with, and how round its edges look."""

    mask: Image.Image
    paint: str
    relief: float


Shape = np.ndarray | Line


def polygon(*points: tuple[float, float]) -> np.ndarray:
    """Return float64[points, 2]."""
    return np.array(points, dtype=np.float64)


def ellipse(x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 360) -> np.ndarray:
    """Return an ellipse, or the part of it from `start` to `stop` degrees (clockwise from 3 o'clock)."""
    angle = np.radians(np.linspace(start, stop, 49))
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def box(left: float, top: float, right: float, bottom: float, radius: float = 0.0) -> np.ndarray:
    """Return a rectangle with round corners."""
    corners = [(right, bottom, 0), (left, bottom, 90), (left, top, 180), (right, top, 270)]
    parts = []
    for x, y, angle in corners:
        middle_x, middle_y = x - math.copysign(radius, x - left - 1e-9), y - math.copysign(radius, y - top - 1e-9)
        parts.append(ellipse(middle_x, middle_y, radius, radius, angle, angle + 90))
    return np.concatenate(parts)


def smooth(*points: tuple[float, float], closed: bool = True) -> np.ndarray:
    """Return a Catmull-Rom curve through the points."""
    nodes = polygon(*points)
    nodes = np.concatenate([nodes[-1:], nodes, nodes[:2]] if closed else [nodes[:1], nodes, nodes[-1:]])
    before, here, after, later = nodes[:-3, None], nodes[1:-2, None], nodes[2:-1, None], nodes[3:, None]
    t = np.linspace(0, 1, 10, endpoint=False)[None, :, None]
    curve = 2 * here + (after - before) * t + (2 * before - 5 * here + 4 * after - later) * t**2
    curve = (curve + (3 * here - before - 3 * after + later) * t**3) / 2
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, nodes[-1:]])


def mirrored(half: np.ndarray) -> np.ndarray:
    """Return an outline symmetric in x from its right half, given from top to bottom."""
    return np.concatenate([half, half[::-1] * [-1, 1]])


def star(x: float, y: float, radius: float, points: int = 5, inner: float = 0.45) -> np.ndarray:
    """Return a star with one point up."""
    angle = np.arange(2 * points) * np.pi / points - np.pi / 2
    length = np.where(np.arange(2 * points) % 2 == 0, radius, radius * inner)
    return np.stack([x + length * np.cos(angle), y + length * np.sin(angle)], axis=1)


@dataclass
class Sketch:
    """Layers of one product, back to front, placed by one turn, size and stretch.

    Attributes:
        side: pixels of the picture's side. rng: for small differences between products of a kind.
        turn: degrees clockwise. size: pixels per unit, as a share of the side. stretch: width over height.
    """

    side: int
    rng: np.random.Generator
    turn: float = 0.0
    size: float = 0.4
    stretch: float = 1.0
    middle: tuple[float, float] = (0.5, 0.5)
    parts: list[Part] = field(default_factory=list)

    def vary(self, low: float, high: float) -> float:
        """Return a number between `low` and `high` that belongs to this product."""
        return float(self.rng.uniform(low, high))

    def add(self, paint: str, *shapes: Shape, cut: tuple[Shape, ...] = (), relief: float = 0.05) -> None:
        """Add a layer that covers the shapes without those in `cut`."""
        self.parts.append(Part(self.mask(shapes, cut), paint, relief))

    def mask(self, shapes: tuple[Shape, ...], cut: tuple[Shape, ...] = ()) -> Image.Image:
        """Return the anti-aliased cover of the shapes."""
        full = self.side * OVERSAMPLING
        image = Image.new("L", (full, full))
        pen = ImageDraw.Draw(image)
        for group, value in ((shapes, 255), (cut, 0)):
            for shape in group:
                self._fill(pen, shape, value)
        return self._scale_down(image)

    def _scale_down(self, image: Image.Image) -> Image.Image:
        """Scale by 1 / OVERSAMPLING, only where anything is drawn: most of the time of a picture is spent here."""
        small = Image.new("L", (self.side, self.side))
        bounds = image.getbbox()
        if bounds is not None:
            # Lanczos reaches three pixels further than what is drawn
            left, top = (max(low // OVERSAMPLING - 3, 0) for low in bounds[:2])
            right, bottom = (min(high // OVERSAMPLING + 4, self.side) for high in bounds[2:])
            crop = image.crop((left * OVERSAMPLING, top * OVERSAMPLING, right * OVERSAMPLING, bottom * OVERSAMPLING))
            small.paste(crop.resize((right - left, bottom - top), Image.Resampling.LANCZOS), (left, top))
        return small

    def _fill(self, pen: ImageDraw.ImageDraw, shape: Shape, value: int) -> None:
        if isinstance(shape, np.ndarray):
            pen.polygon(self._place(shape).ravel().tolist(), fill=value)
            return
        places, width = self._place(shape.points), shape.width * self.size * self.side * OVERSAMPLING
        pen.line(places.ravel().tolist(), fill=value, width=max(1, round(width)), joint="curve")
        for x, y in (places[0], places[-1]):
            pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=value)

    def _place(self, points: np.ndarray) -> np.ndarray:
        """Return float64[points, 2]: where the points lie on the large canvas, in its pixels."""
        angle = math.radians(self.turn)
        rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        placed = (points * [self.stretch, 1.0]) @ rotation * self.size + self.middle
        return placed * self.side * OVERSAMPLING
