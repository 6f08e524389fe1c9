"""Emblems of the ten purposes, drawn beside a product only in the world where both modalities show everything."""

from collections.abc import Callable

import numpy as np

from musicrec_kit.data.demo_shapes import Line, Shape, box, ellipse, mirrored, polygon, smooth, star

Emblem = tuple[tuple[Shape, ...], tuple[Shape, ...]]


def _camping() -> Emblem:
    return (polygon((0, -0.8), (0.95, 0.7), (-0.95, 0.7)), Line(polygon((0, -0.8), (0.16, -1)), 0.1)), (
        polygon((0, -0.1), (0.3, 0.7), (-0.3, 0.7)),
    )


def _office() -> Emblem:
    screen = (box(-0.95, -0.75, 0.95, 0.35, 0.1), box(-0.12, 0.3, 0.12, 0.7), box(-0.5, 0.62, 0.5, 0.8, 0.08))
    return screen, (box(-0.8, -0.6, 0.8, 0.2, 0.03),)


def _toddlers() -> Emblem:
    bear = (ellipse(-0.6, -0.6, 0.34, 0.34), ellipse(0.6, -0.6, 0.34, 0.34), ellipse(0, 0.05, 0.85, 0.78))
    return bear, (ellipse(-0.3, -0.12, 0.11, 0.11), ellipse(0.3, -0.12, 0.11, 0.11), ellipse(0, 0.36, 0.3, 0.22))


def _wedding() -> Emblem:
    half = smooth((0.0, -0.4), (0.3, -0.72), (0.8, -0.66), (0.9, -0.15), (0.5, 0.4), (0.0, 0.85), closed=False)
    return (mirrored(half),), ()


def _running() -> Emblem:
    weights = (
        box(-0.95, -0.4, -0.72, 0.4, 0.06),
        box(-0.7, -0.6, -0.42, 0.6, 0.08),
        box(0.42, -0.6, 0.7, 0.6, 0.08),
        box(0.72, -0.4, 0.95, 0.4, 0.06),
    )
    return (*weights, box(-0.5, -0.12, 0.5, 0.12)), ()


def _sailing() -> Emblem:
    arms = ellipse(0, 0.1, 0.75, 0.75, 15, 165)
    return (
        Line(polygon((0, -0.5), (0, 0.8)), 0.18),
        Line(polygon((-0.4, -0.3), (0.4, -0.3)), 0.16),
        Line(arms, 0.18),
        ellipse(0, -0.72, 0.26, 0.26),
    ), (ellipse(0, -0.72, 0.11, 0.11),)


def _gardening() -> Emblem:
    right = smooth((0.0, 0.1), (0.3, -0.5), (0.95, -0.75), (0.8, -0.1), (0.35, 0.15))
    left = smooth((0.0, 0.3), (-0.3, -0.2), (-0.9, -0.35), (-0.75, 0.2), (-0.3, 0.4))
    return (right, left, Line(polygon((0, 0.9), (0, 0.1)), 0.15)), ()


def _stargazing() -> Emblem:
    crescent = np.concatenate([ellipse(-0.1, 0, 0.85, 0.85, 25, 275), ellipse(0.25, -0.2, 0.66, 0.66, 256, 54)])
    return (crescent, star(0.42, -0.32, 0.34), star(0.75, 0.32, 0.22)), ()


def _dogs() -> Emblem:
    toes = [ellipse(x, y, 0.2, 0.27) for x, y in ((-0.68, -0.12), (-0.25, -0.58), (0.25, -0.58), (0.68, -0.12))]
    return (*toes, smooth((0, -0.1), (0.45, 0.25), (0.5, 0.7), (0, 0.66), (-0.5, 0.7), (-0.45, 0.25))), ()


def _halloween() -> Emblem:
    half = smooth((0.0, -0.9), (0.5, -0.75), (0.68, -0.2), (0.66, 0.4), closed=False)
    hem = polygon((0.66, 0.9), (0.4, 0.62), (0.2, 0.9), (0.0, 0.62))
    face = (ellipse(-0.24, -0.3, 0.12, 0.17), ellipse(0.24, -0.3, 0.12, 0.17), ellipse(0, 0.1, 0.14, 0.16))
    return (mirrored(np.concatenate([half, hem])),), face


EMBLEMS: dict[str, Callable[[], Emblem]] = {
    "camping": _camping,
    "office": _office,
    "toddlers": _toddlers,
    "wedding": _wedding,
    "running": _running,
    "sailing": _sailing,
    "gardening": _gardening,
    "stargazing": _stargazing,
    "dogs": _dogs,
    "halloween": _halloween,
}


def emblem(purpose: str) -> Emblem:
    """Return (shapes, holes) of a purpose's emblem, within -1 .. 1."""
    return EMBLEMS[purpose]()
