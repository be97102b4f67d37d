"""The decoder: codes -> images; one interface for all kinds.

decoder = load_decoder("data/decoder/kmeans-onestep")
images_BHWC = decoder.decode(codes_BN)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from stages.core import artefact
from stages.core.convnet import to_grid
from stages.core.errors import UserError
from stages.core.pixels import to_uint8
from stages.decoder.noise import seeds_of

if TYPE_CHECKING:
    from collections.abc import Callable

KIND = "decoder"


class Decoder(ABC):
    """A trained decoder with its facts: how many codes it knows, how many it takes an image; N = groups * grid².

    `draws`: what it paints depends on the generator, too. `any_size`: convolutions alone, see `enlarged`.
    """

    draws = True
    any_size = False

    def __init__(self, network: nn.Module, config: dict[str, Any], device: torch.device | str):
        self.network, self.config, self.device = network.to(device).eval(), config, torch.device(device)

    @property
    def num_codes(self) -> int:
        return self.config["num_codes"]

    @property
    def num_patches(self) -> int:
        return self.config["groups"] * self.config["grid"] ** 2

    @property
    def num_parameters(self) -> int:
        """Of all networks that it paints with; code vectors are none."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @property
    def steps(self) -> int | None:
        """How many decoding steps its config asks for; None for a kind to which that is no setting."""
        return None

    def in_steps(self, steps: int) -> Self:
        """The same decoder in another number of decoding steps."""
        if self.steps is None or steps < 1:
            raise UserError(f"steps = {steps}: expected at least 1, and a decoder that takes steps")
        return self._with(sampling={**self.config["sampling"], "steps": steps})

    def enlarged(self, scale: int) -> Self:
        """The same decoder for a grid, and images, `scale` times as wide and high as those that it learned from."""
        if not self.any_size:
            raise UserError(f"a decoder of kind {self.config['decoder']} paints images of one size alone")
        return self._with(grid=scale * self.config["grid"], img_px=scale * self.config["img_px"])

    def _with(self, **changes: Any) -> Self:
        other = copy(self)
        other.config = {**self.config, **changes}
        return other

    @abstractmethod
    def paint(self, codes_BN: Tensor, seeds_B: np.ndarray) -> Tensor:
        """int64 [B, N] on the device, uint64 [B] -> float [B, 3, H, W], about [-1, 1].

        What is random in image i comes from seed i (stages/decoder/noise.py) and from nothing else.
        """

    @torch.inference_mode()
    def decode(
        self, codes: np.ndarray | Tensor, generator: torch.Generator | None = None, batch_size: int = 256
    ) -> np.ndarray:
        """Codes of any integer type [B, N] -> uint8 [B, H, W, 3].

        One seed is drawn from `generator` (0 without one). Images depend on that seed and on their codes, not on their
        batch, but for the rounding of float sums: a value is at most one grey level off.
        """
        codes_BN = self.checked(codes)
        seeds = seeds_of(codes_BN, generator)
        starts = range(0, max(1, len(codes_BN)), batch_size)
        parts = [(codes_BN[i : i + batch_size].to(self.device), seeds[i : i + batch_size]) for i in starts]
        return np.concatenate([to_uint8(self.paint(*part)) for part in parts])

    def checked(self, codes: np.ndarray | Tensor) -> Tensor:
        """int64 [B, N]; codes of another shape or range are an error."""
        found = codes if isinstance(codes, Tensor) else torch.from_numpy(np.asarray(codes).astype(np.int64))
        fits = found.ndim == 2 and found.shape[1] == self.num_patches
        if not fits or (len(found) and not 0 <= int(found.min()) <= int(found.max()) < self.num_codes):
            expected = f"integers below {self.num_codes} of shape [B, {self.num_patches}]"
            raise UserError(f"codes: expected {expected}, got {list(found.shape)}")
        return found.long()


def standardised(vectors_KD: Tensor) -> Tensor:
    """Code vectors as decoders take them: zero mean, mean deviation 1, float32."""
    scaled = (vectors_KD - vectors_KD.mean(0)) / vectors_KD.std(0, correction=0).mean().clamp(min=1e-6)
    return scaled.float()


def latents(vectors_KD: Tensor, codes_BN: Tensor, groups: int) -> Tensor:
    """int64 [B, N] -> the codes' vectors, float [B, groups * D, grid, grid]; N = groups * grid² for any grid."""
    return to_grid(vectors_KD[codes_BN], isqrt(codes_BN.shape[1] // groups))


def load_decoder(folder: str | Path, device: torch.device | str = "cpu") -> Decoder:
    """A decoder artefact of any kind, with its averaged weights; `decoder` in the config says which kind."""
    config = artefact.read_config(Path(folder), KIND)
    return loader_of(config.get("decoder"))(Path(folder), config, device)


def loader_of(kind: str | None) -> Callable[[Path, dict[str, Any], torch.device | str], Decoder]:
    """What makes a `Decoder` of an artefact's folder and config, for one kind."""
    match kind:
        case "onestep":
            from stages.decoder.painter import load_onestep

            return load_onestep
        case "diffusion":
            from stages.decoder.velocity import load_diffusion

            return load_diffusion
        case "render":
            from stages.decoder.renderer import load_render

            return load_render
    raise UserError(f"a decoder of kind {kind!r}, which is not known here. Run `dvc repro`.")
