"""The nuisance of photographs around and over a scene's objects: background, clutter, light and camera.

Everything scales with `nuisance` from 0 (one flat grey, even light, no noise) to 1. Planes are float32 [B, 3, H, W].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.data.dice import Dice

if TYPE_CHECKING:
    import numpy as np

CANDIDATES = 6  # background colours tried; the first far enough from the main object's is taken
CONTRAST = 0.45  # Euclidean distance of RGB in 0 ... 1 that counts as far enough
CLUTTER = 6  # specks at most
GRAIN = 2.0**-12  # textures are rounded to this, so that the transform's last bits never show


def backdrop(dice: Dice, main_rgb: np.ndarray, img_px: int, nuisance: float) -> np.ndarray:
    """The background alone: a colour unlike the main object's [B, 3], blended, textured, littered."""
    base = far_colour(dice, main_rgb, nuisance)[:, :, None, None]
    if nuisance == 0:
        return base.repeat(img_px, 2).repeat(img_px, 3)
    second = base + dice.uniform("second", 3, 1, 1, low=-0.4, high=0.4) * nuisance
    plane = base + (second - base) * blend(dice, img_px)
    strength = dice.uniform("texture strength", 1, 1, 1, low=0.02, high=0.22) * nuisance
    plane += strength * coloured_texture(dice, img_px)
    return scatter(dice, plane, nuisance)


def far_colour(dice: Dice, rgb: np.ndarray, chroma: float) -> np.ndarray:
    """float32 [B, 3]: a random colour at least CONTRAST away from `rgb` [B, 3], or the farthest one tried.

    `chroma` goes from 0, a grey of any lightness, to 1, any colour.
    """
    import numpy as np

    grey = dice.uniform("background lightness", CANDIDATES, 1, low=0.08, high=0.92)
    tried = grey + chroma * (dice.uniform("background", CANDIDATES, 3, low=0.08, high=0.92) - grey)
    distance = np.sqrt(((tried - rgb[:, None]) ** 2).sum(2))
    return tried[np.arange(len(tried)), np.minimum(distance, CONTRAST).argmax(1)]


def coordinates(img_px: int) -> tuple[np.ndarray, np.ndarray]:
    """x [1, W] and y [H, 1] of pixel centres, float32, a side from 0 to 1."""
    import numpy as np

    line = (np.arange(img_px, dtype=np.float32) + np.float32(0.5)) / np.float32(img_px)
    return line[None], line[:, None]


def ramp(dice: Dice, purpose: str, img_px: int) -> np.ndarray:
    """float32 [B, 1, H, W]: a slope in a random direction, from about -0.5 to 0.5."""
    import numpy as np

    x, y = coordinates(img_px)
    angle = dice.uniform(purpose, 1, 1, 1, high=2 * np.pi)
    return (x - np.float32(0.5)) * np.cos(angle) + (y - np.float32(0.5)) * np.sin(angle)


def blend(dice: Dice, img_px: int) -> np.ndarray:
    """float32 [B, 1, H, W] in 0 ... 1: between two colours, from a slow gradient to a horizon."""
    import numpy as np

    width = dice.uniform("blend width", 1, 1, 1, low=0.05, high=1.0)
    shift = dice.uniform("blend shift", 1, 1, 1, low=-0.35, high=0.35)
    return np.clip((ramp(dice, "blend angle", img_px) - shift) / width + np.float32(0.5), 0, 1)


def coloured_texture(dice: Dice, img_px: int) -> np.ndarray:
    """Three 1/f fields, mostly brightness and a little colour, each image with its own exponent from 0.7 to 1.6."""
    import numpy as np

    field = texture(dice, "texture", 3, img_px)
    brightness = np.array([1.0, 1.0, 1.0], np.float32)[:, None, None]
    warmth = np.array([0.6, 0.0, -0.6], np.float32)[:, None, None]
    tint = np.array([-0.3, 0.4, -0.3], np.float32)[:, None, None]
    return field[:, :1] * brightness + field[:, 1:2] * warmth + field[:, 2:] * tint


def texture(dice: Dice, purpose: str, fields: int, img_px: int) -> np.ndarray:
    """float32 [B, fields, H, W] of mean 0 and deviation 1: amplitude 1/f^a (Field 1987), random phases."""
    import numpy as np

    across, down = np.fft.rfftfreq(img_px)[None], np.fft.fftfreq(img_px)[:, None]
    frequency = np.sqrt(across**2 + down**2)
    frequency[0, 0] = np.inf  # no mean
    exponent = dice.uniform(f"{purpose} exponent", 1, 1, 1, low=0.7, high=1.6)
    phase = dice.uniform(f"{purpose} phase", fields, *frequency.shape, high=2 * np.pi)
    spectrum = (np.cos(phase) + 1j * np.sin(phase)) * frequency.astype(np.float32) ** -exponent
    field = np.fft.irfft2(spectrum, (img_px, img_px))
    field /= np.sqrt((field**2).mean((2, 3), keepdims=True))
    return (np.round(field / GRAIN) * GRAIN).astype(np.float32)


def scatter(dice: Dice, plane: np.ndarray, nuisance: float) -> np.ndarray:
    """`plane` with at most CLUTTER specks: short strokes with round ends, far smaller than any object."""
    import numpy as np

    img_px = plane.shape[-1]
    x, y = coordinates(img_px)
    there = dice.uniform("specks", CLUTTER, 1, 1) < 0.7 * nuisance
    places = dice.uniform("speck places", 2, CLUTTER, 1, 1)
    angle = dice.uniform("speck angles", CLUTTER, 1, 1, high=2 * np.pi)
    half = dice.uniform("speck lengths", CLUTTER, 1, 1, high=0.05)
    thick = dice.uniform("speck widths", CLUTTER, 1, 1, low=0.008, high=0.025)
    rgb = dice.uniform("speck colours", CLUTTER, 3, 1, 1)
    for k in range(CLUTTER):
        right, below = x - places[:, 0, k], y - places[:, 1, k]
        along = right * np.cos(angle[:, k]) + below * np.sin(angle[:, k])
        across = below * np.cos(angle[:, k]) - right * np.sin(angle[:, k])
        beyond = np.maximum(abs(along) - half[:, k], 0)
        distance = np.sqrt(beyond * beyond + across * across) - thick[:, k]
        cover = np.clip(np.float32(0.5) - distance * img_px, 0, 1) * there[:, k]
        plane += cover[:, None] * (rgb[:, k] - plane)
    return plane


def photograph(dice: Dice, plane: np.ndarray, nuisance: float) -> np.ndarray:
    """The finished scene under uneven, tinted light, with sensor noise; uint8 [B, H, W, 3]."""
    import numpy as np

    if nuisance:
        img_px = plane.shape[-1]
        slope = dice.uniform("light slope", 1, 1, 1, high=0.7) * nuisance
        exposure = 1 + dice.uniform("exposure", 1, 1, 1, low=-0.25, high=0.2) * nuisance
        tint = 1 + dice.uniform("tint", 3, 1, 1, low=-0.12, high=0.12) * nuisance
        plane = plane * (exposure * tint * (1 + slope * ramp(dice, "light angle", img_px)))
        sigma = dice.uniform("noise strength", 1, 1, 1, low=0.005, high=0.07) * nuisance
        plane += sigma * dice.normal("noise", 3, img_px, img_px) * np.float32(1)
    return np.round(np.clip(plane, 0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1)
