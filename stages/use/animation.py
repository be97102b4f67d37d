"""How images grow while their codes are drawn: the codes after each step, decoded.

At a place without a code yet stands the code that the tokenizer gives a gray image there, since a decoder takes whole
grids. Its patch is painted gray afterwards. So what is seen of a place is decoded from its own code, and from the codes
of its neighbors or of gray.
"""

from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.generator.generator import Generator

MOST_FRAMES, WHOLE_MS, LEAST_MS, HOLD_MS = 48, 3000, 60, 1500
GRAY = 128


def drawn_steps(generator: Generator, given: Tensor, sampling: Any, seed: int, first: int = 0) -> list[np.ndarray]:
    """int64 [B, N] after each step of drawing, `num_codes` where no code is drawn yet; the last is whole.

    `given` and `sampling` are those of `Generator.asked`, `first` is the number of the first sample. Kinds whose
    `sample` takes no `watch` draw in raster order.
    """
    seen: list[Tensor] = []
    kind, network = generator.kind, generator.network
    if "watch" in signature(kind.sample).parameters:
        codes = kind.sample(network, given, sampling, seed, first, watch=lambda now: seen.append(now.clone()))
        if not seen or not torch.equal(seen[-1], codes):
            seen.append(codes)
        return [one.cpu().numpy() for one in seen]
    codes = kind.sample(network, given, sampling, seed, first).cpu().numpy()
    places = np.arange(codes.shape[1])
    return [np.where(places < count, codes, network.num_codes) for count in range(1, codes.shape[1] + 1)]


def chosen_steps(steps: list[np.ndarray], nothing: int) -> list[np.ndarray]:
    """The beginning, with `nothing` drawn, and at most MOST_FRAMES steps, evenly spaced and with the last."""
    numbers = np.linspace(0, len(steps) - 1, min(len(steps), MOST_FRAMES)).round().astype(int)
    return [np.full_like(steps[0], nothing), *(steps[number] for number in numbers)]


def gray_codes(generator: Generator) -> np.ndarray:
    """int64 [1, N] of a gray image."""
    px = generator.tokenizer.square.img_px
    return generator.tokenizer.encode(np.full((px, px, 3), GRAY, np.uint8))


def painted(generator: Generator, codes: np.ndarray, filler: np.ndarray, seed: int) -> np.ndarray:
    """uint8 [B, H, W, 3] of codes int64 [B, N], of which some are `num_codes`, none yet: their patches are gray."""
    missing = codes == generator.network.num_codes
    images = generator.decoder.decode(np.where(missing, filler, codes), torch.Generator().manual_seed(seed))
    grid, px = generator.decoder.config["grid"], images.shape[1]
    cells = missing.reshape(len(codes), -1, grid, grid).any(1)  # a patch has a code of each codebook
    at = np.arange(px) * grid // px
    images[cells[:, at[:, None], at]] = GRAY
    return images


def frame_ms(frames: int) -> int:
    """How long each frame stays, in milliseconds."""
    return max(LEAST_MS, WHOLE_MS // frames)
