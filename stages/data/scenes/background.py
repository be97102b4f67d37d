"""Nuisance factors of a scene, as photographs have them: background, clutter, light and sensor noise.

Everything scales with `nuisance` from 0 (one flat gray, even light, no noise) to 1. Planes are float32 [B, 3, H, W].
"""

import numpy as np

from stages.data.scenes.counter_rng import ImageRng

CANDIDATES = 6  # background colors tried; the first far enough from the main object's is taken
CONTRAST = 0.45  # Euclidean distance of RGB in 0 ... 1 that counts as far enough
CLUTTER = 6  # specks at most
GRAIN = 2.0**-12  # textures are rounded to its multiples, so that images are equal whatever the last bits of the FFT


def render_background(rng: ImageRng, main_rgb: np.ndarray, img_px: int, nuisance: float) -> np.ndarray:
    """The background alone: a color unlike the main object's [B, 3], blended, textured, with specks."""
    base = far_color(rng, main_rgb, nuisance)[:, :, None, None]
    if nuisance == 0:
        return base.repeat(img_px, 2).repeat(img_px, 3)
    second = base + rng.uniform("second", 3, 1, 1, low=-0.4, high=0.4) * nuisance
    plane = base + (second - base) * blend(rng, img_px)
    strength = rng.uniform("texture strength", 1, 1, 1, low=0.02, high=0.22) * nuisance
    plane += strength * colored_texture(rng, img_px)
    return add_specks(rng, plane, nuisance)


def far_color(rng: ImageRng, rgb: np.ndarray, chroma: float) -> np.ndarray:
    """float32 [B, 3]: a random color at least CONTRAST away from `rgb` [B, 3], or the farthest one tried.

    `chroma` goes from 0, a gray of any lightness, to 1, any color.
    """
    gray = rng.uniform("background lightness", CANDIDATES, 1, low=0.08, high=0.92)
    tried = gray + chroma * (rng.uniform("background", CANDIDATES, 3, low=0.08, high=0.92) - gray)
    distance = np.sqrt(((tried - rgb[:, None]) ** 2).sum(2))
    return tried[np.arange(len(tried)), np.minimum(distance, CONTRAST).argmax(1)]


def coordinates(img_px: int) -> tuple[np.ndarray, np.ndarray]:
    """x [1, W] and y [H, 1] of pixel centers, float32, a side from 0 to 1."""
    line = (np.arange(img_px, dtype=np.float32) + np.float32(0.5)) / np.float32(img_px)
    return line[None], line[:, None]


def ramp(rng: ImageRng, purpose: str, img_px: int) -> np.ndarray:
    """float32 [B, 1, H, W]: a slope in a random direction, from about -0.5 to 0.5."""
    x, y = coordinates(img_px)
    angle = rng.uniform(purpose, 1, 1, 1, high=2 * np.pi)
    return (x - np.float32(0.5)) * np.cos(angle) + (y - np.float32(0.5)) * np.sin(angle)


def blend(rng: ImageRng, img_px: int) -> np.ndarray:
    """float32 [B, 1, H, W] in 0 ... 1: weight of the second of two colors, from a slow gradient to a sharp horizon."""
    width = rng.uniform("blend width", 1, 1, 1, low=0.05, high=1.0)
    shift = rng.uniform("blend shift", 1, 1, 1, low=-0.35, high=0.35)
    return np.clip((ramp(rng, "blend angle", img_px) - shift) / width + np.float32(0.5), 0, 1)


def colored_texture(rng: ImageRng, img_px: int) -> np.ndarray:
    """float32 [B, 3, H, W]: three `texture` fields mixed to mostly brightness and a little color."""
    field = texture(rng, "texture", 3, img_px)
    brightness = np.array([1.0, 1.0, 1.0], np.float32)[:, None, None]
    warmth = np.array([0.6, 0.0, -0.6], np.float32)[:, None, None]
    tint = np.array([-0.3, 0.4, -0.3], np.float32)[:, None, None]
    return field[:, :1] * brightness + field[:, 1:2] * warmth + field[:, 2:] * tint


def texture(rng: ImageRng, purpose: str, fields: int, img_px: int) -> np.ndarray:
    """float32 [B, fields, H, W] of mean 0 and deviation 1: amplitude 1/f^a (Field 1987), a in 0.7 ... 1.6 per image."""
    across, down = np.fft.rfftfreq(img_px)[None], np.fft.fftfreq(img_px)[:, None]
    frequency = np.sqrt(across**2 + down**2)
    frequency[0, 0] = np.inf  # no mean
    exponent = rng.uniform(f"{purpose} exponent", 1, 1, 1, low=0.7, high=1.6)
    phase = rng.uniform(f"{purpose} phase", fields, *frequency.shape, high=2 * np.pi)
    spectrum = (np.cos(phase) + 1j * np.sin(phase)) * frequency.astype(np.float32) ** -exponent
    field = np.fft.irfft2(spectrum, (img_px, img_px))
    field /= np.sqrt((field**2).mean((2, 3), keepdims=True))
    return (np.round(field / GRAIN) * GRAIN).astype(np.float32)


def add_specks(rng: ImageRng, plane: np.ndarray, nuisance: float) -> np.ndarray:
    """`plane` with at most CLUTTER specks: short strokes with round ends, far smaller than any object."""
    img_px = plane.shape[-1]
    x, y = coordinates(img_px)
    present = rng.uniform("specks", CLUTTER, 1, 1) < 0.7 * nuisance
    places = rng.uniform("speck places", 2, CLUTTER, 1, 1)
    angle = rng.uniform("speck angles", CLUTTER, 1, 1, high=2 * np.pi)
    half = rng.uniform("speck lengths", CLUTTER, 1, 1, high=0.05)
    thick = rng.uniform("speck widths", CLUTTER, 1, 1, low=0.008, high=0.025)
    rgb = rng.uniform("speck colours", CLUTTER, 3, 1, 1)
    for k in range(CLUTTER):
        right, below = x - places[:, 0, k], y - places[:, 1, k]
        along = right * np.cos(angle[:, k]) + below * np.sin(angle[:, k])
        across = below * np.cos(angle[:, k]) - right * np.sin(angle[:, k])
        beyond = np.maximum(abs(along) - half[:, k], 0)
        distance = np.sqrt(beyond * beyond + across * across) - thick[:, k]
        cover = np.clip(np.float32(0.5) - distance * img_px, 0, 1) * present[:, k]
        plane += cover[:, None] * (rgb[:, k] - plane)
    return plane


def take_photo(rng: ImageRng, plane: np.ndarray, nuisance: float) -> np.ndarray:
    """The finished scene under uneven, tinted light, with sensor noise; uint8 [B, H, W, 3]."""
    if nuisance:
        img_px = plane.shape[-1]
        slope = rng.uniform("light slope", 1, 1, 1, high=0.7) * nuisance
        exposure = 1 + rng.uniform("exposure", 1, 1, 1, low=-0.25, high=0.2) * nuisance
        tint = 1 + rng.uniform("tint", 3, 1, 1, low=-0.12, high=0.12) * nuisance
        plane = plane * (exposure * tint * (1 + slope * ramp(rng, "light angle", img_px)))
        sigma = rng.uniform("noise strength", 1, 1, 1, low=0.005, high=0.07) * nuisance
        plane += sigma * rng.normal("noise", 3, img_px, img_px) * np.float32(1)
    return np.round(np.clip(plane, 0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1)
