"""Networks as maps of patch features: float [B, 3, H, W] in [-1, 1] -> float32 [B, D, grid, grid] per chosen block.

The network's last normalization is applied to the output of every chosen block; blocks after the last chosen one are
dropped. Pixels, vision transformers and transformers over codes have this one form.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.codebook.tokenizer import Tokenizer, load_tokenizer
from stages.core import UserError
from stages.core.networks import to_grid
from stages.core.params import impossible
from stages.encoder.encoder import block_number, last_norm, load_encoder, random_twin
from stages.generator.open_network import open_network
from stages.generator.transformer import TokenTransformer, check_unconditional
from stages.recognition.params import EncoderNetwork, Maps, Network, Pixels, Random


class Backbone(nn.Module):
    """`dims`: channels of each map; `grid`: its side;"""

    dims: list[int]
    grid: int

    @property
    def maps(self) -> Maps:
        """What a head is built for."""
        return Maps(self.dims, self.grid)

    def branches(self) -> list[Sequence[nn.Module]]:
        """Per block, the residual branches that drop path may skip."""
        return []


class PixelBackbone(Backbone):
    """The pixels of each patch through a linear map, which starts as the identity."""

    def __init__(self, patch_px: int, img_px: int):
        super().__init__()
        if img_px % patch_px:
            raise impossible("patch_px", patch_px, f"expected a divisor of the images' side, {img_px} px")
        self.patch_px, self.grid, self.dims = patch_px, img_px // patch_px, [3 * patch_px**2]
        self.embed = nn.Linear(self.dims[0], self.dims[0])
        nn.init.eye_(self.embed.weight)
        nn.init.zeros_(self.embed.bias)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        return [self.embed(F.pixel_unshuffle(pixels, self.patch_px).movedim(1, -1)).movedim(-1, 1).float()]


class VitBackbone(Backbone):
    """A vision transformer of this repository or of timm, for images of `img_px`."""

    def __init__(self, vit: Any, img_px: int, patch_px: int, blocks: list[int], mean: Any = 0.5, std: Any = 0.5):
        super().__init__()
        vit.blocks = vit.blocks[: max(blocks) + 1]
        self.vit, self.img_px, self.grid, self.blocks = vit, img_px, img_px // patch_px, blocks
        self.dims = [vit.embed_dim] * len(blocks)
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.as_tensor(value).expand(3)[:, None, None].clone(), persistent=False)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        if pixels.shape[-1] != self.img_px:
            pixels = F.interpolate(pixels, size=self.img_px, mode="bicubic", align_corners=False)
        order = sorted({*self.blocks})
        normed = ((pixels + 1) / 2 - self.get_buffer("mean")) / self.get_buffer("std")
        found = self.vit.forward_intermediates(normed, indices=order, output_fmt="NLC", intermediates_only=True)
        norm = last_norm(self.vit)
        return [to_grid(norm(found[order.index(block)]).float(), self.grid) for block in self.blocks]

    def branches(self) -> list[Sequence[nn.Module]]:
        return [(block.attn, block.mlp) for block in self.vit.blocks]


class CodeBackbone(Backbone):
    """A generator's transformer over the codes of the image, given no class and no caption.

    The feature of a patch is the output at the position that holds its code: causal, it knows the codes up to this
    one; otherwise all codes. The tokenizer stays frozen. Codes of several codebooks are joined along channels.
    """

    def __init__(self, network: TokenTransformer, tokenizer: Tokenizer, blocks: list[int]):
        super().__init__()
        network.blocks = network.blocks[: max(blocks) + 1]
        network.mixing = network.mixing[: max(blocks) + 1]
        network.head = nn.Identity()
        self.network, self.tokenizer, self.blocks, self.grid = network, tokenizer, blocks, tokenizer.grid
        self.dims = [len(network.norm.weight) * (network.num_patches // tokenizer.grid**2)] * len(blocks)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
            codes = self.tokenizer.encode_pixels(pixels)
        found = outputs(self.network, self.network.null(len(pixels)), codes)
        maps = [self.network.norm(found[block][:, self.network.prefix_length :]) for block in self.blocks]
        return [to_grid(features.float(), self.grid) for features in maps]

    def branches(self) -> list[Sequence[nn.Module]]:
        return [(block.out, block.mlp) for block in self.network.blocks]  # ty: ignore[invalid-explicit-return]


def outputs(network: TokenTransformer, given: Tensor, codes_BN: Tensor) -> list[Tensor]:
    """The output [B, T, D] of every block, at what is given and at all codes."""
    found: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda *seen: found.append(seen[-1])) for block in network.blocks]
    try:
        network._start(given, codes_BN, None)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def load_backbone(name: str, params: Network, folder: Path, img_px: int, device: torch.device) -> Backbone:
    """The network `name` from its recognition_network artifact, for images of `img_px`."""
    key = f"recognition_network.{name}"
    if isinstance(params, Pixels):
        return PixelBackbone(params.patch_px, img_px).to(device)
    if isinstance(params, EncoderNetwork | Random):
        twin = isinstance(params, Random)
        encoder = random_twin(folder / "encoder", params.seed) if twin else load_encoder(folder / "encoder")
        facts = encoder.config
        if not encoder.plain:
            raise UserError(
                f"{key}: recognition needs a plain vision transformer; encoder.name = {facts['name']!r} is none"
            )
        blocks = [block_number(f"{key}.blocks", block, facts["depth"]) for block in params.blocks]
        found = VitBackbone(encoder.vit, encoder.img_px, facts["patch_px"], blocks, facts["mean"], facts["std"])
        return found.to(device)
    network, config, _ = open_network(folder / "generator", device)
    if params.kind == "alternating":
        vit, shape = network.network.encoder, config["shape"]["encoder"]
        blocks = [numbered(f"{key}.blocks", block, shape["depth"]) for block in params.blocks]
        return VitBackbone(vit, shape["img_px"], shape["patch_px"], blocks).to(device)
    check_unconditional(folder / "generator", config, key)
    if not isinstance(network, TokenTransformer):
        raise impossible(f"{key}.generator", params.generator, "expected a generator with a transformer over codes")
    blocks = [numbered(f"{key}.blocks", block, len(network.blocks)) for block in params.blocks]
    return CodeBackbone(network, load_tokenizer(folder / "codebook", device), blocks).to(device)


def numbered(key: str, block: int, depth: int) -> int:
    """The number from 0 of a block that may count from the end; `UserError` if there is none."""
    if not -depth <= block < depth:
        raise impossible(key, block, f"the network has {depth} blocks: expected {-depth} … {depth - 1}")
    return block % depth
