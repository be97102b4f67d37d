"""The networks of ADDP: a pixel encoder that sees the image decoded so far, and a decoder to the masked codes.

B = batch, N = codes per image, D = width, K = codes, M = masked positions of a batch.
"""

from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.core import UserError
from stages.core.networks import to_grid
from stages.core.transformer import Block, logits_at, run, shrink_branches, start_weights
from stages.decoder.onestep import OneStep
from stages.encoder.vit import build_vit


class AddpNetwork(nn.Module):
    """Image, class and known codes -> logits of the masked codes.

    The decoder reads one position for the class, one per code for what the encoder sees there, and one per known code.
    Where a code is masked, a learned token stands for what the encoder sees, so that nothing of the image's unreliable
    parts is read there. The encoder has no class token; the class has that position.
    `encoder`: the arguments of `build_vit`. Codes of several codebooks read the same patch of the image.
    """

    def __init__(
        self, *, num_codes: int, num_classes: int, num_patches: int, codebooks: int,
        encoder: dict[str, Any], dim: int, depth: int, heads: int, dropout: float,
    ):  # fmt: skip
        super().__init__()
        self.num_codes, self.num_classes, self.num_patches = num_codes, num_classes, num_patches
        self.codebooks, self.encoder = codebooks, build_vit(**encoder)
        self.embed_code, self.embed_class = nn.Embedding(num_codes, dim), nn.Embedding(num_classes + 1, dim)
        self.embed_feature = nn.Linear(encoder["dim"], dim)
        self.masked = nn.Parameter(torch.empty(dim))
        self.positions = nn.Parameter(torch.empty(3, num_patches, dim))  # of features, of masked features, of codes
        self.blocks = nn.ModuleList(Block(dim, heads, dropout, causal=False) for _ in range(depth))
        self.norm, self.drop = nn.LayerNorm(dim), nn.Dropout(dropout)
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim))
        self.bias = nn.Parameter(torch.zeros(num_codes))
        for part in (self.embed_code, self.embed_class, self.embed_feature, self.blocks, self.head):
            part.apply(start_weights)
        for table in (self.masked, self.positions):
            nn.init.normal_(table, std=0.02)
        shrink_branches(self.blocks)

    @property
    def device(self) -> torch.device:
        return self.positions.device

    def features(self, images: Tensor) -> Tensor:
        """float [B, 3, img_px, img_px], about [-1, 1] -> what the encoder sees at each code, [B, N, D]."""
        seen = self.encoder.forward_features(images.clamp(-1, 1))
        return self.embed_feature(seen).repeat(1, self.codebooks, 1)

    def forward(self, images: Tensor, labels_B: Tensor, codes_BN: Tensor, mask_BN: Tensor) -> Tensor:
        """Logits float32 [M, K] at the true positions of `mask`, row-major; every row of it masks equally many.

        images float [B, 3, img_px, img_px]; labels int64 [B] (num_classes: none); codes int64 [B, N], of which those
        at masked positions are not read.
        """
        return self.logits(self.features(images), labels_B, codes_BN, mask_BN)

    def logits(self, features_BND: Tensor, labels_B: Tensor, codes_BN: Tensor, mask_BN: Tensor) -> Tensor:
        """The same from `features`, so that guidance computes them once."""
        rows, of_feature, of_masked, of_code = len(labels_B), *self.positions
        seen = torch.where(mask_BN[..., None], self.masked + of_masked, features_BND + of_feature)
        known = (self.embed_code(codes_BN[~mask_BN]) + of_code.expand(rows, -1, -1)[~mask_BN]).view(
            rows, -1, seen.shape[2]
        )
        x = self.drop(torch.cat([self.embed_class(labels_B)[:, None], seen, known], 1))
        hidden = self.norm(run(self.blocks, x))[:, 1 : 1 + self.num_patches]
        tied = self.embed_code.weight.detach()
        return logits_at(lambda rows: F.linear(self.head(rows), tied, self.bias), hidden, mask_BN)


class Addp(nn.Module):
    """The trained networks with the frozen decoder to pixels, whose code vectors may be mixed."""

    def __init__(self, network: AddpNetwork, pixels: OneStep):
        super().__init__()
        self.network, self.pixels = network, pixels

    @property
    def num_codes(self) -> int:
        return self.network.num_codes

    @property
    def num_classes(self) -> int:
        return self.network.num_classes

    @property
    def num_patches(self) -> int:
        return self.network.num_patches

    @property
    def device(self) -> torch.device:
        return self.network.device


def picture(pixels: OneStep, codes_BN: Tensor, mask_BN: Tensor, share_MK: Tensor | None) -> Tensor:
    """Images float32 [B, 3, img_px, img_px] of codes; masked ones are the mean code under the probabilities `share`.

    Without `share` all codes are equally likely at masked positions.
    """
    vectors_BND = pixels.vectors[codes_BN.masked_fill(mask_BN, 0)]
    soft = pixels.vectors.mean(0) if share_MK is None else share_MK @ pixels.vectors
    vectors_BND[mask_BN] = soft.to(vectors_BND.dtype)
    return pixels.network(to_grid(vectors_BND, isqrt(codes_BN.shape[1] // pixels.codebooks))).float()


def shape_of(
    facts: dict[str, Any], decoder: dict[str, Any], encoder: dict[str, int], model: dict[str, Any], seed: int
) -> dict[str, Any]:
    """The arguments of `AddpNetwork` from the configs of tokens and decoder and the sizes in params.yaml."""
    patch_px, rest = divmod(decoder["img_px"], decoder["grid"])
    if rest or patch_px & (patch_px - 1) or patch_px < 2:
        size = f"{decoder['img_px']} px and {decoder['grid']} codes per side"
        raise UserError(f"alternating generators: {size}: expected patches of a power of two, at least 2 px")
    step = 8 * patch_px * (2 if encoder["stem_blocks"] else 1)  # the stem's narrowest map has 8 channels or more
    if encoder["dim"] % step:
        raise UserError(f"encoder.dim = {encoder['dim']}: expected a multiple of {step} (patches of {patch_px} px)")
    sizes = {"num_codes": facts["num_codes"], "num_classes": len(facts["classes"]), "num_patches": facts["num_patches"]}
    vit = {"img_px": decoder["img_px"], "patch_px": patch_px, **encoder, "seed": seed}
    return {**sizes, "codebooks": decoder["codebooks"], "encoder": vit, **model}
