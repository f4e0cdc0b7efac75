"""Pictures of two coloured shapes and captions that say what they are, how large, and how they lie to each other.

A caption is right for one picture of a set only when every word of it is: colour, shape and size of both, and the
relation. That makes retrieval among such pairs hard enough to tell compression methods apart.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage
from PIL import ImageDraw

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["IMAGE_SIZE", "draw_scenes"]

IMAGE_SIZE = 48
OVERSAMPLING = 4
COLOURS = {
    "red": (214, 40, 40),
    "green": (42, 157, 70),
    "blue": (40, 80, 220),
    "yellow": (240, 200, 30),
    "purple": (130, 50, 170),
    "orange": (245, 130, 30),
    "black": (25, 25, 25),
    "cyan": (50, 200, 215),
}
RADII = {"small": 5.5, "large": 9.0}
DISTANCE = 23.0
JITTER = 2.5
RELATIONS = {"above": (0, -1), "below": (0, 1), "left of": (-1, 0), "right of": (1, 0)}
OPPOSITE = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
TEMPLATES = ("a {} {} a {}", "there is a {} {} a {}", "a picture of a {} {} a {}")

Point = tuple[float, float]


def _polygon(*angles_and_radii: Point) -> Callable[[float], list[Point]]:
    """Return a function from a radius to the corners given as (turns, share of the radius), from the top clockwise."""

    def corners(radius: float) -> list[Point]:
        return [
            (radius * share * math.sin(2 * math.pi * turn), -radius * share * math.cos(2 * math.pi * turn))
            for turn, share in angles_and_radii
        ]

    return corners


def _plus(radius: float) -> list[Point]:
    thin = radius * 0.36
    quarter = [(-thin, -radius), (thin, -radius), (thin, -thin)]
    return [corner for turns in range(4) for corner in [_turned(point, turns) for point in quarter]]


def _turned(point: Point, quarters: int) -> Point:
    x, y = point
    for _ in range(quarters):
        x, y = -y, x
    return x, y


SHAPES: dict[str, Callable[[float], list[Point]]] = {
    "circle": _polygon(*((step / 32, 1.0) for step in range(32))),
    "square": _polygon(*((step / 4 + 0.125, 1.2) for step in range(4))),
    "triangle": _polygon(*((step / 3, 1.2) for step in range(3))),
    "diamond": _polygon((0.0, 1.2), (0.25, 0.7), (0.5, 1.2), (0.75, 0.7)),
    "star": _polygon(*((step / 10, 1.2 if step % 2 == 0 else 0.5) for step in range(10))),
    "cross": _plus,
    "bar": _polygon((0.17, 1.15), (0.33, 1.15), (0.67, 1.15), (0.83, 1.15)),
}

Thing = tuple[str, str, str]
"""Size, colour and shape."""
Scene = tuple[Thing, str, Thing]
"""What, its relation to the other, the other."""


def _choose_scenes(count: int, choose: np.random.Generator) -> list[Scene]:
    """Return scenes of which no two show the same, not even told from the other side ("a above b", "b below a")."""
    scenes: dict[frozenset[tuple[Thing, str]], Scene] = {}
    while len(scenes) < count:
        first, second = (
            (_pick(choose, tuple(RADII)), _pick(choose, tuple(COLOURS)), _pick(choose, tuple(SHAPES))) for _ in range(2)
        )
        relation = _pick(choose, tuple(RELATIONS))
        if first != second:
            scenes.setdefault(frozenset({(first, relation), (second, OPPOSITE[relation])}), (first, relation, second))
    return list(scenes.values())


def _pick(choose: np.random.Generator, names: Sequence[str]) -> str:
    return names[int(choose.integers(len(names)))]


def _draw(scene: Scene, choose: np.random.Generator) -> PILImage.Image:
    """Return the picture of a scene: its things a little off their places, on noisy pale ground."""
    first, relation, second = scene
    side = IMAGE_SIZE * OVERSAMPLING
    ground = int(choose.integers(215, 256))
    canvas = PILImage.new("RGB", (side, side), (ground, ground, ground))
    pen = ImageDraw.Draw(canvas)
    offset = np.array(RELATIONS[relation]) * DISTANCE / 2
    centre = IMAGE_SIZE / 2
    for (size, colour, shape), place in ((first, centre + offset), (second, centre - offset)):
        x0, y0 = place + choose.uniform(-JITTER, JITTER, size=2)
        radius = RADII[size] * choose.uniform(0.92, 1.08)
        shade = tuple(int(np.clip(value + choose.integers(-12, 13), 0, 255)) for value in COLOURS[colour])
        corners = [((x + x0) * OVERSAMPLING, (y + y0) * OVERSAMPLING) for x, y in SHAPES[shape](radius)]
        pen.polygon(corners, fill=shade)
    small = np.asarray(canvas.resize((IMAGE_SIZE, IMAGE_SIZE), PILImage.Resampling.BOX), dtype=np.float32)
    noisy = small + choose.normal(0, 5, size=small.shape)
    return PILImage.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _caption(scene: Scene, choose: np.random.Generator) -> str:
    """Return a sentence that tells a scene, from either side."""
    first, relation, second = scene
    if choose.random() < 0.5:
        first, relation, second = second, OPPOSITE[relation], first
    return _pick(choose, TEMPLATES).format(" ".join(first), relation, " ".join(second))


def draw_scenes(sizes: dict[str, int], seed: int) -> dict[str, Dataset]:
    """Return splits of distinct scenes, no scene in two of them, with the columns `image` (RGB) and `text`.

    Args:
        sizes: Name of each split → how many scenes it has.
        seed: Everything is drawn from it.
    """
    choose = np.random.default_rng(seed)
    scenes = _choose_scenes(sum(sizes.values()), choose)
    features = Features({"image": Image(), "text": Value("string")})
    splits = {}
    for name, size in sizes.items():
        members, scenes = scenes[:size], scenes[size:]
        columns = {
            "image": [_draw(scene, choose) for scene in members],
            "text": [_caption(scene, choose) for scene in members],
        }
        splits[name] = Dataset.from_dict(columns, features=features)
    return splits
