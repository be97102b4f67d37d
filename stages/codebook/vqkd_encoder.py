"""The network of vqkd: images -> unit vectors -> codes -> the features that a frozen teacher has for the images.

    images ─► encoder (vision transformer, head) ─► unit vectors ─► nearest code ─► feature decoder ─► features

In every stage of this chain vector i belongs to patch i, row-major; neither network has a class token.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.codebook.dead_codes import live_fraction, revive_dead_codes, running_share
from stages.codebook.quantizers import nearest
from stages.core.hardware import gathered
from stages.core.networks import load_tensors
from stages.encoder.vit import Block, build_vit

KMEANS_ITERATIONS = 10
WEIGHTS = "encoder.safetensors"  # of a codebook artifact


def tanh_head(dim_in: int, dim_out: int) -> nn.Sequential:
    """Linear, tanh, linear."""
    return nn.Sequential(nn.Linear(dim_in, dim_in), nn.Tanh(), nn.Linear(dim_in, dim_out))


class VqkdEncoder(nn.Module):
    """float [B, 3, img_px, img_px] in [-1, 1] -> unit vectors float32 [B, N, code_dim].

    `shape` holds the arguments of build_vit: img_px, patch_px, dim, depth, heads, seed.
    """

    def __init__(self, shape: dict[str, Any], code_dim: int):
        super().__init__()
        self.vit, self.head = build_vit(**shape), tanh_head(shape["dim"], code_dim)

    def forward(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.head(self.vit.forward_features(pixels)).float(), dim=-1)


class EmaVq(nn.Module):
    """Unit code vectors, updated as moving averages of the vectors assigned to them (VQ-KD, Peng et al. 2022).

    `vectors` [K, D] and `share` [K] are buffers, saved with the weights.
    """

    vectors: Tensor
    share: Tensor  # running share of vectors that choose each code

    def __init__(self, num_codes: int, dim: int, decay: float, revive: bool):
        super().__init__()
        self.register_buffer("vectors", F.normalize(torch.randn(num_codes, dim), dim=-1))
        self.register_buffer("share", torch.zeros(num_codes))
        self.decay, self.revive = decay, revive

    def unit_vectors(self) -> Tensor:
        """float [K, D], normalized, because averaging over steps makes code vectors shorter than 1."""
        return F.normalize(self.vectors, dim=-1)

    def forward(self, unit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit vectors float [..., D] -> their codes' vectors, codes int64 [...], mean (z - sg(c))².

        The gradient of the code vectors passes to `unit` unchanged (straight through). In training mode the codes are
        updated afterwards, by the vectors of all processes.
        """
        vectors = self.unit_vectors()
        codes = nearest(unit.detach().flatten(0, -2), vectors).view(unit.shape[:-1])
        chosen = F.embedding(codes, vectors)
        if self.training:
            self.update(gathered(unit.detach().flatten(0, -2)), gathered(codes.flatten()))
        return unit + (chosen - unit).detach(), codes, F.mse_loss(unit, chosen)

    @torch.no_grad()
    def update(self, unit_MD: Tensor, codes_M: Tensor) -> None:
        """One step of the moving average; then, if `revive`, move dead codes to vectors of the batch."""
        self.share = running_share(self.share, codes_M)
        self.vectors = ema_step(self.vectors, unit_MD, codes_M, self.decay)
        if self.revive:
            revive_dead_codes(self.vectors, self.share, unit_MD)
            self.vectors = F.normalize(self.vectors, dim=-1)

    def live_fraction(self) -> Tensor:
        """Scalar: the part of the codes that are in use."""
        return live_fraction(self.share)

    @torch.no_grad()
    def start_from(self, unit_MD: Tensor) -> None:
        """Initialize the codes by spherical k-means on vectors [M, D] of a batch, from K of them drawn at random."""
        chosen = torch.randperm(len(unit_MD), device=unit_MD.device)[: len(self.vectors)]
        self.vectors = unit_MD[chosen].clone()
        for _ in range(KMEANS_ITERATIONS):
            self.vectors = ema_step(self.vectors, unit_MD, nearest(unit_MD, self.vectors), 0.0)


def ema_step(vectors_KD: Tensor, unit_MD: Tensor, codes_M: Tensor, decay: float) -> Tensor:
    """Unit float [K, D]: norm(decay * c + (1 - decay) * norm(mean of its vectors)); unchosen codes are unchanged."""
    sums_KD = torch.zeros_like(vectors_KD).index_add_(0, codes_M, unit_MD)
    hit_K = torch.bincount(codes_M, minlength=len(vectors_KD)) > 0
    average_KD = decay * vectors_KD + (1 - decay) * F.normalize(sums_KD, dim=-1)
    return torch.where(hit_K[:, None], F.normalize(average_KD, dim=-1), vectors_KD)


class FeatureDecoder(nn.Module):
    """Code vectors [B, N, code_dim] -> features [B, N, dim_out], by a transformer with a learned position table."""

    def __init__(self, code_dim: int, num_patches: int, width: int, depth: int, heads: int, dim_out: int):
        super().__init__()
        self.embed = nn.Linear(code_dim, width)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(num_patches, width))
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), tanh_head(width, dim_out)

    def forward(self, quantized_BND: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(quantized_BND) + self.pos_embed)))


class VQKD(nn.Module):
    """Encoder, codes and feature decoder. Loss = mean (1 - cos(D(z_q), teacher)) + commitment * mean (z - sg(z_q))².

    The paper's equation 4 calls this feature decoder D; nothing decodes to pixels. The loss has no term for the codes
    because moving averages update them (EmaVq).
    """

    def __init__(self, encoder: VqkdEncoder, quantizer: EmaVq, decoder: FeatureDecoder, commitment: float):
        super().__init__()
        self.encoder, self.quantizer, self.decoder, self.commitment = encoder, quantizer, decoder, commitment

    def forward(self, pixels: Tensor, teacher_BND: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """float [B, 3, H, W] and the teacher's features [B, N, D] -> loss, {cosine_loss, commitment, live_fraction}.

        In training mode the codes are updated, too.
        """
        quantized, _, commitment = self.quantizer(self.encoder(pixels))
        cosine = cosine_loss(self.decoder(quantized), teacher_BND)
        scalars = {"cosine_loss": cosine.detach(), "commitment": commitment.detach()}
        return cosine + self.commitment * commitment, scalars | {"live_fraction": self.quantizer.live_fraction()}


def cosine_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Scalar: mean of 1 - cos over all vectors [..., D]; the length of either side does not matter."""
    return (1 - F.cosine_similarity(predicted.float(), target.detach().float(), dim=-1)).mean()


def load(folder: Path, config: dict[str, Any]) -> VqkdEncoder:
    """The trained encoder of the codebook artifact in `folder`."""
    encoder = VqkdEncoder(config["shape"], config["dim"])
    encoder.load_state_dict(load_tensors(folder, WEIGHTS))
    return encoder.requires_grad_(False)
