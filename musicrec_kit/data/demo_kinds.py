"""The kinds of product of the demo data, drawn in layers from back to front.

Paints: `main` carries the product's colour, pattern and material; `plain` its colour and material; `deep` and `pale`
are darker and paler shades of the colour; the others (`demo_pictures.FIXED_PAINTS`) are the same for every product.
"""

from collections.abc import Callable

import numpy as np

from musicrec_kit.data.demo_shapes import Line, Sketch, box, ellipse, mirrored, polygon, smooth


def _mug(s: Sketch) -> None:
    reach, wide = s.vary(0.8, 0.98), s.vary(0.52, 0.6)
    s.add("plain", Line(smooth((0.35, -0.33), (reach, -0.36), (reach, 0.3), (0.35, 0.4), closed=False), 0.17))
    body = smooth(
        (-0.1 - wide, -0.6), (-0.06 - wide, 0.45), (-0.45, 0.72), (0.25, 0.72), (wide - 0.14, 0.45), (wide - 0.1, -0.6)
    )
    s.add("main", body, box(-0.1 - wide, -0.64, wide - 0.1, 0.2, 0.03), relief=0.14)
    s.add("pale", ellipse(-0.1, -0.62, wide, 0.16), relief=0.02)
    s.add("deep", ellipse(-0.1, -0.615, wide - 0.07, 0.115), relief=0.03)


def _teapot(s: Sketch) -> None:
    belly = s.vary(0.58, 0.66)
    s.add("plain", Line(smooth((-0.4, -0.32), (-0.95, -0.34), (-0.98, 0.2), (-0.42, 0.42), closed=False), 0.13))
    s.add(
        "plain",
        smooth((0.42, -0.02), (0.72, -0.22), (0.9, -0.52), (1.06, -0.5), (0.94, -0.1), (0.62, 0.46), (0.3, 0.4)),
        relief=0.06,
    )
    s.add("deep", box(-0.34, 0.62, 0.34, 0.76, 0.05))
    s.add(
        "main",
        mirrored(smooth((0.0, -0.5), (0.36, -0.44), (belly, 0.1), (0.42, 0.62), (0.0, 0.7), closed=False)),
        relief=0.16,
    )
    s.add("plain", ellipse(0, -0.46, 0.35, 0.2, 180, 360), box(-0.38, -0.49, 0.38, -0.42, 0.03), relief=0.06)
    s.add("deep", ellipse(0, -0.72, 0.11, 0.11), relief=0.05)


def _vase(s: Sketch) -> None:
    neck, belly = s.vary(0.17, 0.25), s.vary(0.5, 0.62)
    for x, tip, lean in ((-0.1, -0.98, -0.26), (0.06, -1.06, 0.08), (0.12, -0.9, 0.38)):
        s.add("leaf", Line(smooth((x * 0.5, -0.3), (x, -0.62), (lean, tip), closed=False), 0.045), relief=0.01)
        s.add(
            "cream",
            *[ellipse(lean + 0.09 * np.cos(a), tip + 0.09 * np.sin(a), 0.08, 0.08) for a in np.arange(5) * 1.257],
            relief=0.02,
        )
        s.add("glow", ellipse(lean, tip, 0.055, 0.055), relief=0.02)
    half = smooth(
        (0.0, -0.52), (neck + 0.06, -0.52), (neck, -0.3), (belly, 0.22), (0.36, 0.86), (0.0, 0.9), closed=False
    )
    s.add("main", mirrored(half), relief=0.15)
    s.add("pale", ellipse(0, -0.52, neck + 0.08, 0.06), relief=0.02)
    s.add("deep", ellipse(0, -0.515, neck + 0.03, 0.035), relief=0.01)


def _lamp(s: Sketch) -> None:
    top = s.vary(0.3, 0.42)
    s.add("glow", ellipse(0, 0.02, 0.6, 0.1), relief=0.02)
    s.add("steel", Line(polygon((0, -0.05), (0, 0.78)), 0.09))
    s.add(
        "plain",
        mirrored(smooth((0.0, 0.3), (0.12, 0.34), (0.2, 0.56), (0.1, 0.8), (0.0, 0.82), closed=False)),
        relief=0.08,
    )
    s.add("dark", ellipse(0, 0.86, 0.42, 0.1), relief=0.04)
    shade = polygon((-top, -0.86), (top, -0.86), (0.74, 0.02), (-0.74, 0.02))
    s.add("main", shade, ellipse(0, 0.02, 0.74, 0.09), ellipse(0, -0.86, top, 0.05), relief=0.18)
    s.add("pale", Line(ellipse(0, 0.02, 0.73, 0.085, 5, 175), 0.045), relief=0.01)


def _clock(s: Sketch) -> None:
    s.add("deep", Line(polygon((-0.42, 0.6), (-0.58, 0.95)), 0.13), Line(polygon((0.42, 0.6), (0.58, 0.95)), 0.13))
    s.add("plain", ellipse(-0.5, -0.74, 0.26, 0.24), ellipse(0.5, -0.74, 0.26, 0.24), relief=0.08)
    s.add("steel", Line(polygon((0, -0.95), (0, -0.7)), 0.1))
    s.add("main", ellipse(0, 0, 0.86, 0.86), relief=0.08)
    s.add("cream", ellipse(0, 0, 0.6, 0.6), relief=0.03)
    angles = np.arange(12) * np.pi / 6
    s.add(
        "dark",
        *[Line(polygon(*[(r * np.sin(a), -r * np.cos(a)) for r in (0.47, 0.53)]), 0.045) for a in angles],
        relief=0.005,
    )
    hour, minute = s.vary(0, 2 * np.pi), s.vary(0, 2 * np.pi)
    s.add("dark", Line(polygon((0, 0), (0.3 * np.sin(hour), -0.3 * np.cos(hour))), 0.08), relief=0.01)
    s.add(
        "plain",
        Line(polygon((0, 0), (0.43 * np.sin(minute), -0.43 * np.cos(minute))), 0.055),
        ellipse(0, 0, 0.07, 0.07),
        relief=0.01,
    )


def _chair(s: Sketch) -> None:
    wide = s.vary(0.52, 0.6)
    legs = [
        ((-0.42, 0.3), (-0.62, 0.98)),
        ((0.42, 0.3), (0.62, 0.98)),
        ((-0.24, 0.3), (-0.3, 0.84)),
        ((0.24, 0.3), (0.3, 0.84)),
    ]
    s.add("tan", *[Line(polygon(*leg), 0.1) for leg in legs[2:]], relief=0.03)
    s.add("tan", *[Line(polygon(*leg), 0.11) for leg in legs[:2]], relief=0.03)
    s.add(
        "main",
        smooth((-wide, -0.82), (0, -0.98), (wide, -0.82), (wide - 0.06, 0.06), (0, 0.14), (0.06 - wide, 0.06)),
        relief=0.11,
    )
    s.add("plain", smooth((-0.62, 0.12), (0, 0.04), (0.62, 0.12), (0.72, 0.34), (0, 0.46), (-0.72, 0.34)), relief=0.09)


def _suitcase(s: Sketch) -> None:
    tall = s.vary(0.66, 0.76)
    s.add("steel", Line(polygon((-0.24, -tall), (-0.24, -0.98), (0.24, -0.98), (0.24, -tall)), 0.07))
    s.add("dark", ellipse(-0.42, 0.86, 0.12, 0.12), ellipse(0.42, 0.86, 0.12, 0.12), relief=0.03)
    s.add("main", box(-0.64, -tall, 0.64, 0.84, 0.16), relief=0.1)
    ribs = [Line(polygon((x, 0.16 - tall), (x, 0.66)), 0.05) for x in (-0.34, 0.34)]
    s.add("deep", *ribs, Line(polygon((0, 0.16 - tall), (0, 0.66)), 0.05), relief=0.02)
    s.add("cream", box(-0.2, -0.06, 0.2, 0.2, 0.05), relief=0.02)
    s.add(
        "dark",
        Line(polygon((-0.1, 0.02), (0.1, 0.02)), 0.03),
        Line(polygon((-0.1, 0.11), (0.05, 0.11)), 0.03),
        relief=0.004,
    )


def _guitar(s: Sketch) -> None:
    waist = s.vary(0.27, 0.33)
    s.add("tan", box(-0.075, -0.9, 0.075, 0.1, 0.02), relief=0.02)
    s.add("dark", polygon((-0.11, -1.2), (0.11, -1.2), (0.08, -0.88), (-0.08, -0.88)), relief=0.02)
    s.add("steel", *[ellipse(x, y, 0.035, 0.03) for x in (-0.14, 0.14) for y in (-1.13, -1.04, -0.95)], relief=0.01)
    half = smooth(
        (0.0, -0.2), (0.3, -0.22), (0.4, 0.0), (waist, 0.22), (0.52, 0.52), (0.42, 0.86), (0.0, 0.96), closed=False
    )
    s.add("deep", mirrored(half) * [1.05, 1.0] + [0, 0.03], relief=0.03)
    s.add("main", mirrored(half), relief=0.07)
    s.add("cream", ellipse(0, 0.2, 0.19, 0.19), relief=0.01)
    s.add("dark", ellipse(0, 0.2, 0.155, 0.155), box(-0.2, 0.62, 0.2, 0.7, 0.03), relief=0.02)
    s.add(
        "cream",
        *[Line(polygon((x, -1.1), (x * 1.3, 0.66)), 0.012) for x in (-0.045, -0.015, 0.015, 0.045)],
        relief=0.004,
    )


def _backpack(s: Sketch) -> None:
    wide = s.vary(0.58, 0.66)
    s.add(
        "dark",
        Line(smooth((-0.16, -0.72), (-0.14, -0.98), (0.14, -0.98), (0.16, -0.72), closed=False), 0.08),
        relief=0.02,
    )
    s.add("deep", box(-wide - 0.16, 0.02, 0.16 + wide, 0.66, 0.14), relief=0.06)
    s.add(
        "main",
        mirrored(
            smooth((0.0, -0.86), (0.4, -0.78), (wide, -0.2), (wide, 0.6), (0.44, 0.86), (0.0, 0.88), closed=False)
        ),
        relief=0.12,
    )
    s.add("plain", box(-0.44, 0.14, 0.44, 0.72, 0.12), relief=0.07)
    s.add("pale", Line(polygon((-0.36, 0.28), (0.36, 0.28)), 0.035), relief=0.01)
    s.add("dark", Line(smooth((-0.42, -0.22), (0, -0.34), (0.42, -0.22), closed=False), 0.045), relief=0.01)
    s.add("steel", box(0.2, 0.26, 0.27, 0.42, 0.02), box(-0.04, -0.34, 0.04, -0.16, 0.02), relief=0.01)


def _umbrella(s: Sketch) -> None:
    hook = np.concatenate([polygon((0, -0.7), (0, 0.72)), ellipse(0.14, 0.72, 0.14, 0.2, 180, 0)])
    s.add("tan", Line(hook, 0.075), relief=0.02)
    s.add("steel", Line(polygon((0, -0.98), (0, -0.8)), 0.05), relief=0.01)
    dome = ellipse(0, 0.06, 0.96, 0.9, 180, 360)
    scallops = tuple(ellipse(x, 0.09, 0.161, 0.12) for x in (-0.8, -0.48, -0.16, 0.16, 0.48, 0.8))
    s.add("main", dome, box(-0.96, 0.0, 0.96, 0.07), cut=scallops, relief=0.16)
    ribs = [
        Line(smooth((0, -0.84), (x * 0.75, -0.5), (x, -0.02), closed=False), 0.028)
        for x in (-0.64, -0.32, 0, 0.32, 0.64)
    ]
    s.add("deep", *ribs, relief=0.005)


def _sneaker(s: Sketch) -> None:
    heel = s.vary(0.5, 0.6)
    s.add(
        "deep",
        smooth((-0.84, -heel + 0.08), (-0.5, -heel + 0.03), (-0.18, 0.02 - heel), (-0.16, -0.3), (-0.78, -0.3)),
        relief=0.04,
    )
    toe = smooth(
        (-0.95, 0.3),
        (-0.97, -0.2),
        (-0.95, 0.1 - heel),
        (-0.86, 0.02 - heel),
        (-0.6, -heel + 0.17),
        (-0.16, -heel - 0.04),
        (0.16, -0.24),
        (0.6, -0.08),
    )
    front = smooth((0.16, -0.24), (0.62, -0.06), (0.95, 0.08), (1.0, 0.34), (0.2, 0.4), (-0.5, 0.4), (-0.95, 0.34))
    s.add("main", toe, front, relief=0.11)
    s.add("pale", smooth((0.62, -0.06), (0.92, 0.05), (1.0, 0.34), (0.66, 0.36), (0.56, 0.14)), relief=0.05)
    s.add("deep", Line(smooth((-0.72, 0.2), (-0.4, 0.24), (0.1, -0.05), closed=False), 0.1), relief=0.02)
    s.add("cream", box(-1.0, 0.3, 1.02, 0.5, 0.09), relief=0.04)
    laces = [
        Line(polygon((-0.16 + 0.13 * i, -heel + 0.08 + 0.1 * i), (0.0 + 0.13 * i, -heel - 0.04 + 0.11 * i)), 0.055)
        for i in range(4)
    ]
    s.add("cream", *laces, relief=0.01)


def _cap(s: Sketch) -> None:
    tall = s.vary(0.62, 0.74)
    s.add("deep", smooth((0.1, 0.2), (0.62, 0.1), (1.0, 0.3), (1.04, 0.46), (0.6, 0.42), (0.1, 0.44)), relief=0.05)
    s.add("main", ellipse(-0.16, 0.3, 0.72, tall + 0.12, 180, 360), box(-0.88, 0.24, 0.56, 0.42, 0.06), relief=0.15)
    seams = [
        Line(smooth((-0.16, 0.18 - tall), (x, -0.2), (x * 1.25 + 0.04, 0.3), closed=False), 0.025)
        for x in (-0.62, -0.16, 0.3)
    ]
    s.add("deep", *seams, relief=0.005)
    s.add("deep", Line(smooth((-0.86, 0.38), (-0.16, 0.44), (0.54, 0.38), closed=False), 0.05), relief=0.01)
    s.add("plain", ellipse(-0.16, 0.16 - tall, 0.09, 0.06), relief=0.03)


def _t_shirt(s: Sketch) -> None:
    sleeve, hem = s.vary(0.92, 1.02), s.vary(0.8, 0.92)
    half = polygon((0.2, -0.78), (0.44, -0.72), (sleeve, -0.26), (sleeve - 0.28, 0.0), (0.52, -0.16), (0.5, hem))
    s.add("deep", ellipse(0, -0.76, 0.26, 0.14), relief=0.02)
    s.add("main", mirrored(half), cut=(ellipse(0, -0.8, 0.22, 0.2),), relief=0.08)
    s.add("pale", Line(ellipse(0, -0.8, 0.225, 0.205, 8, 172), 0.05), relief=0.01)
    for side in (-1, 1):
        s.add(
            "deep", Line(polygon((side * (sleeve - 0.04), -0.21), (side * (sleeve - 0.27), -0.03)), 0.04), relief=0.005
        )
        s.add(
            "deep",
            Line(smooth((side * 0.5, -0.14), (side * 0.46, 0.1), (side * 0.47, 0.3), closed=False), 0.018),
            relief=0.003,
        )


def _watch(s: Sketch) -> None:
    strap = s.vary(0.27, 0.33)
    s.add("main", polygon((-strap, -0.3), (-strap + 0.06, -1.08), (strap - 0.06, -1.08), (strap, -0.3)), relief=0.07)
    s.add("main", polygon((-strap, 0.3), (-strap + 0.06, 1.08), (strap - 0.06, 1.08), (strap, 0.3)), relief=0.07)
    s.add("dark", *[ellipse(0, y, 0.035, 0.035) for y in (0.68, 0.8, 0.92)], relief=0.004)
    s.add("steel", box(-0.33, -1.12, 0.33, -1.0, 0.03), box(0.46, -0.07, 0.6, 0.07, 0.03), relief=0.02)
    s.add("steel", ellipse(0, 0, 0.52, 0.52), relief=0.06)
    s.add("plain", ellipse(0, 0, 0.43, 0.43), relief=0.03)
    marks = [
        Line(polygon(*[(r * np.sin(a), -r * np.cos(a)) for r in (0.32, 0.37)]), 0.04) for a in np.arange(12) * np.pi / 6
    ]
    s.add("cream", *marks, relief=0.004)
    hour, minute = s.vary(0, 2 * np.pi), s.vary(0, 2 * np.pi)
    hands = [Line(polygon((0, 0), (r * np.sin(a), -r * np.cos(a))), 0.055) for r, a in ((0.18, hour), (0.29, minute))]
    s.add("cream", *hands, ellipse(0, 0, 0.05, 0.05), relief=0.006)


def _camera(s: Sketch) -> None:
    lens, tall = s.vary(0.38, 0.43), s.vary(0.5, 0.56)
    s.add(
        "steel",
        box(-0.86, -tall - 0.1, 0.86, 0.0, 0.12),
        polygon((-0.3, -0.52), (-0.2, -0.78), (0.2, -0.78), (0.3, -0.52)),
        relief=0.05,
    )
    s.add(
        "dark", box(-0.72, -tall - 0.2, -0.42, -tall - 0.06, 0.04), ellipse(0.62, -tall - 0.1, 0.13, 0.07), relief=0.02
    )
    s.add("main", box(-0.9, -tall + 0.14, 0.9, 0.62, 0.1), relief=0.08)
    s.add("steel", ellipse(0, 0.1, lens + 0.07, lens + 0.07), relief=0.04)
    s.add("dark", ellipse(0, 0.1, lens, lens), relief=0.05)
    s.add("glass", ellipse(0, 0.1, lens - 0.13, lens - 0.13), relief=0.08)
    s.add("cream", ellipse(-0.09, 0.0, 0.055, 0.055), relief=0.01)
    s.add("glow", box(0.5, -0.3, 0.76, -0.14, 0.03), relief=0.02)


KINDS: dict[str, Callable[[Sketch], None]] = {
    "mug": _mug,
    "guitar": _guitar,
    "umbrella": _umbrella,
    "sneaker": _sneaker,
    "clock": _clock,
    "backpack": _backpack,
    "lamp": _lamp,
    "t-shirt": _t_shirt,
    "teapot": _teapot,
    "chair": _chair,
    "camera": _camera,
    "cap": _cap,
    "vase": _vase,
    "watch": _watch,
    "suitcase": _suitcase,
}
