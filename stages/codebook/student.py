"""The network of vqkd: images -> a student's rows -> codes -> the features that a frozen teacher has for the images.

    images ─► student (vision transformer, head) ─► unit rows ─► nearest code ─► feature decoder ─► teacher's features

Row i of every stage belongs to patch i, row-major; there are no class tokens on either side.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from stages.codebook.ema import EmaVq
from stages.core import artefact
from stages.pretrain.model import build_vit


def tanh_head(dim_in: int, dim_out: int) -> nn.Sequential:
    """Linear, tanh, linear."""
    return nn.Sequential(nn.Linear(dim_in, dim_in), nn.Tanh(), nn.Linear(dim_in, dim_out))


class Student(nn.Module):
    """float [B, 3, img_px, img_px] in [-1, 1] -> unit rows float32 [B, N, code_dim].

    `shape` is what build_vit takes: img_px, patch_px, dim, depth, heads, seed.
    """

    def __init__(self, shape: dict[str, Any], code_dim: int):
        super().__init__()
        self.vit, self.head = build_vit(**shape), tanh_head(shape["dim"], code_dim)

    def forward(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.head(self.vit.forward_features(pixels)).float(), dim=-1)


class FeatureDecoder(nn.Module):
    """Code vectors [B, N, code_dim] -> features [B, N, dim_out], by a transformer with a learned position table."""

    def __init__(self, code_dim: int, num_patches: int, width: int, depth: int, heads: int, dim_out: int):
        super().__init__()
        self.embed = nn.Linear(code_dim, width)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(num_patches, width))
        self.blocks = nn.Sequential(*[Block(width, heads, qkv_bias=True) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), tanh_head(width, dim_out)

    def forward(self, quantised_BND: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(quantised_BND) + self.pos_embed)))


class Distiller(nn.Module):
    """Student, codes and feature decoder. Loss = mean (1 - cos(D(z_q), teacher)) + commitment * mean (z - sg(z_q))².

    What the paper's equation 4 calls D is this feature decoder; no pixel is painted. The codes' own term of the loss is
    missing because they move by averages (EmaVq).
    """

    def __init__(self, student: Student, quantiser: EmaVq, decoder: FeatureDecoder, commitment: float):
        super().__init__()
        self.student, self.quantiser, self.decoder, self.commitment = student, quantiser, decoder, commitment

    def forward(self, pixels: Tensor, teacher_BND: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """float [B, 3, H, W] and the teacher's rows for them -> loss, {"cosine_loss", "commitment", "live_fraction"}.

        Training moves the codes too.
        """
        quantised, _, commitment = self.quantiser(self.student(pixels))
        cosine = cosine_loss(self.decoder(quantised), teacher_BND)
        scalars = {"cosine_loss": cosine.detach(), "commitment": commitment.detach()}
        return cosine + self.commitment * commitment, scalars | {"live_fraction": self.quantiser.live_fraction()}


def cosine_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """Scalar: mean of 1 - cos over all rows [..., D]; the length of either side does not matter."""
    return (1 - F.cosine_similarity(made.float(), wanted.detach().float(), dim=-1)).mean()


def load_student(folder: Path, config: dict[str, Any], device: torch.device | str) -> Student:
    """The trained encoder of the codebook artefact in `folder`."""
    student = Student(config["shape"], config["dim"])
    student.load_state_dict(artefact.load_tensors(folder, "student.safetensors"))
    return student.to(device).requires_grad_(False)
