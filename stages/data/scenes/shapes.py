"""Ten plane shapes as signed distances: negative inside, in units of the shape's radius, exact near every edge.

All lie within the unit circle, x to the right, y down. Constructions: Inigo Quilez, "2D distance functions".
"""

import math

import numpy as np

INNER = 0.45  # of the star's points


def signed_distance(shape: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """float32 [M, H, W]: object m of kind shape[m] (a number in SHAPES) at its own coordinates x, y [M, H, W]."""
    distances = np.empty_like(x)
    for number, of_shape in enumerate(SHAPES.values()):
        rows = np.flatnonzero(shape == number)
        distances[rows] = of_shape(x[rows], y[rows])
    return distances


def circle(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return (x * x + y * y) ** 0.5 - radius


def box(x: np.ndarray, y: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    return np.maximum(abs(x) - half_width, abs(y) - half_height)


def convex(x: np.ndarray, y: np.ndarray, sides: list[tuple[float, float]], reach: float) -> np.ndarray:
    """The points on the inner side of every line at distance `reach` from the origin along a unit normal."""
    return np.maximum.reduce([x * normal_x + y * normal_y - reach for normal_x, normal_y in sides])


def disc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return circle(x, y, 0.86)


def ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return abs(circle(x, y, 0.68)) - 0.24


def moon(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(circle(x, y, 0.96), -circle(x - 0.5, y, 0.78))


def square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return box(x, y, 0.7, 0.7)


def bar(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return box(x, y, 0.95, 0.3)


def triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return convex(x, y, [(0.0, 1.0), (0.8660254, -0.5), (-0.8660254, -0.5)], 0.5)


def cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.minimum(box(x, y, 0.93, 0.28), box(x, y, 0.28, 0.93))


def star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Five points: the plane is folded onto a tenth of it, in which the star is one straight edge."""
    fifth = np.float32(2 * np.pi / 5)
    turn = np.arctan2(x, -y) + 4 * fifth  # from the upper point, and never negative
    turn = abs((turn + fifth / 2) % fifth - fifth / 2)
    radius = (x * x + y * y) ** 0.5
    along, across = radius * np.cos(turn), radius * np.sin(turn)
    edge_x, edge_y = 1 - INNER * math.cos(math.pi / 5), INNER * math.sin(math.pi / 5)
    return ((along - 1) * edge_y + across * edge_x) / math.hypot(edge_x, edge_y)


def heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A square on its corner with a half disc on either upper side."""
    half = 0.5  # of the square's side
    y = y - 0.2
    square_on_corner = (abs(x) + abs(y)) / 2**0.5 - half
    lobes = circle(abs(x) - half / 2**0.5, y + half / 2**0.5, half)
    return np.minimum(square_on_corner, lobes)


def arrow(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A triangular head on a bar."""
    wide, high = 0.85, 0.97
    slope = math.hypot(wide, high)
    head = np.maximum(y, (abs(x) * high - (y + high) * wide) / slope)
    return np.minimum(head, box(x, y - 0.2, 0.26, 0.7))  # far into the head: where two just touch, a seam shows


SHAPES = {
    "disc": disc, "ring": ring, "moon": moon, "square": square, "bar": bar, "triangle": triangle, "cross": cross,
    "star": star, "heart": heart, "arrow": arrow,
}  # fmt: skip
