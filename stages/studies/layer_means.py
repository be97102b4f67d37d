"""Features of every layer of a transformer: means over positions of what each block reads and what the last one gives.

Layer n is read by block n, counted from 0: layer 0 is the embeddings, the last layer what the last block gives, before
the network's last normalization. Hooks collect them, so that networks need no code for it.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.encoder.encoder import Encoder


@dataclass(frozen=True)
class Layers:
    """Blocks whose outputs are float [B, positions, D], and how a batch passes them.

    `run` is called with each batch. `first`: positions before it are left out of the mean.
    """

    blocks: Sequence[nn.Module]
    run: Callable[[Any], object]
    first: int = 0

    @torch.inference_mode()
    def means(self, batches: Iterable[Any]) -> list[np.ndarray]:
        """float32 [M, D] of each layer, for the M rows of all batches."""
        found = []
        with self._collected() as means:
            for batch in batches:
                means.clear()
                self.run(batch)
                found.append([*means])
        return [torch.cat(of_layer).cpu().numpy() for of_layer in zip(*found, strict=True)]

    @contextmanager
    def _collected(self) -> Generator[list[Tensor]]:
        means: list[Tensor] = []

        def keep(given: Tensor) -> None:
            means.append(given[:, self.first :].float().mean(1))

        hooks = [block.register_forward_pre_hook(lambda _, given: keep(given[0])) for block in self.blocks]
        hooks.append(self.blocks[-1].register_forward_hook(lambda _, given, made: keep(made)))
        try:
            yield means
        finally:
            for hook in hooks:
                hook.remove()


def layers_of_pixels(encoder: Encoder) -> Layers:
    """Of an encoder, which is run on images float [B, 3, H, W] in [-1, 1]; without class and register tokens."""
    last = encoder.config["depth"] - 1
    tokens = getattr(encoder.vit, "num_prefix_tokens", 0)  # timm's name; this repository's networks have none
    return Layers([*encoder.vit.blocks], lambda pixels: encoder(pixels, blocks=[last], final_norm=False), tokens)


@torch.inference_mode()
def means_of_maps(encoder: Encoder, batches: Iterable[Tensor]) -> list[np.ndarray]:
    """Of other encoders than plain vision transformers: float32 [M, D] of the pixels and of each feature map."""
    blocks, found = list(range(len(encoder.maps))), []
    for pixels in batches:
        maps = encoder(pixels, blocks=blocks, final_norm=False)
        found.append([pixels.float().mean((2, 3)), *(features.mean(1) for features in maps)])
    return [torch.cat(of_layer).cpu().numpy() for of_layer in zip(*found, strict=True)]
