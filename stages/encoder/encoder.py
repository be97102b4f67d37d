"""The frozen encoder: images -> patch features of any block.

A block is one of the network's intermediate feature maps: a vision transformer has one per transformer block, a
convolutional or hierarchical network one per stage. `Encoder.maps` holds the sides and widths of all.

encoder = load_encoder("data/encoder")
feat_BND = encoder(to_float(images_BHWC), blocks=[9], final_norm=True)[0]
"""

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.core import artifact
from stages.core.hardware import compute
from stages.core.networks import load_tensors
from stages.core.params import Precision, impossible
from stages.core.schemas import maps_of
from stages.encoder.vit import build_vit

WEIGHTS = "model.safetensors"  # of an encoder artifact


class Encoder(nn.Module):
    """A network with its own size, mean and std. Its weights never change; gradients pass through.

    `maps`: (patches per side, D) of every block; `grid`, `dim`: those of the last. `plain`: it is a vision transformer,
    with one grid from its first to its last block.
    """

    vit: Any
    mean: Tensor
    std: Tensor

    def __init__(self, vit: Any, config: dict[str, Any]):
        super().__init__()
        self.vit, self.config = vit.eval().requires_grad_(False), config
        self.img_px: int = config["img_px"]
        self.maps, self.plain = maps_of(config), "maps" not in config
        self.grid, self.dim = self.maps[-1]
        self.final_norm = last_norm(vit) if len({*self.maps}) == 1 else nn.Identity()
        self.register_buffer("mean", torch.tensor(config["mean"])[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(config["std"])[:, None, None], persistent=False)

    def forward(
        self, pixels: Tensor, *, blocks: list[int], final_norm: bool, precision: Precision | None = None
    ) -> list[Tensor]:
        """float [B, 3, H, W] in [-1, 1] -> float32 [B, N, D] for each block, row-major, no class or register tokens.

        Blocks count from 0. As in DiGIT, images are resized to img_px bicubically and without antialiasing.
        `final_norm` applies the network's last normalization to each block; `precision`: None for the artifact's.
        """
        if pixels.shape[-1] != self.img_px:
            pixels = F.interpolate(pixels, size=self.img_px, mode="bicubic", align_corners=False)
        pixels = ((pixels + 1) / 2 - self.mean) / self.std
        with compute(pixels.device, precision or self.config["precision"]):
            found = self.outputs(pixels, sorted(set(blocks)))
        by_block = dict(zip(sorted(set(blocks)), found, strict=True))
        chosen = [by_block[block].float() for block in blocks]
        return [self.final_norm(feat_BND) for feat_BND in chosen] if final_norm else chosen

    def outputs(self, normed: Tensor, blocks: list[int]) -> list[Tensor]:
        """Float [B, 3, img_px, img_px], by mean and std -> [B, N, D] for each of the ascending `blocks`."""
        form = "NLC" if self.plain else "NCHW"
        found = self.vit.forward_intermediates(
            normed, indices=blocks, stop_early=True, output_fmt=form, intermediates_only=True
        )
        return found if self.plain else [maps.flatten(2).transpose(1, 2) for maps in found]

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode: a frozen encoder has no training behavior."""
        return super().train(False)


def last_norm(vit: Any) -> nn.Module:
    """The normalization after the last block; networks made for average pooling keep it in fc_norm, some have none.

    One that is no function of a single patch, such as a batch normalization of maps, counts as none.
    """
    norm, pooled = (getattr(vit, name, nn.Identity()) for name in ("norm", "fc_norm"))
    found = norm if isinstance(norm, nn.LayerNorm) or isinstance(pooled, nn.Identity) else pooled
    return nn.Identity() if isinstance(found, nn.ModuleList | nn.BatchNorm2d | nn.GroupNorm) else found


def load_encoder(folder: str | Path, device: torch.device | str = "cpu") -> Encoder:
    """The network of an encoder artifact; its weights file is compared with the recorded hash first."""
    config = artifact.read_config(Path(folder), "encoder")
    vit = build(config)
    vit.load_state_dict(load_tensors(Path(folder), WEIGHTS))
    return Encoder(vit, config).to(device)


def random_twin(folder: str | Path, seed: int, device: torch.device | str = "cpu") -> Encoder:
    """The same architecture with random initial weights, as a control."""
    config = artifact.read_config(Path(folder), "encoder")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Encoder(build({**config, "seed": seed}), config).to(device)


def build(config: dict[str, Any]) -> nn.Module:
    """The network of an encoder config with its initial weights: one of this repository's own, or timm's."""
    if "shape" in config:
        return build_vit(**config["shape"], seed=config["seed"])
    return create(config["name"], config["img_px"], config.get("arguments", {}))


def create(name: str, img_px: int, arguments: dict[str, Any]) -> Any:
    """timm's network with initial weights, without classifier; only some networks take the size of their images."""
    import timm  # here, since it takes as long to import as torch

    options: dict[str, Any] = {"num_classes": 0, **arguments}
    try:
        return timm.create_model(name, pretrained=False, img_size=img_px, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
    return timm.create_model(name, pretrained=False, **options)


def block_number(key: str, block: int, depth: int) -> int:
    """The number from 0 of a block that may count from the end; `UserError` that names `key` if there is none."""
    if not -depth <= block < depth:
        raise impossible(key, block, f"the encoder has {depth} blocks: expected {-depth} … {depth - 1}")
    return block % depth


def check_final_norm(key: str, wanted: bool, encoder: Encoder) -> None:
    """`UserError` that names `key` if a final normalization is wanted of a network that has none."""
    if wanted and isinstance(encoder.final_norm, nn.Identity):
        raise impossible(key, wanted, "the encoder has no normalization after its last block: expected false")
