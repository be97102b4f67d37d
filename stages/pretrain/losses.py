"""The objectives: SimCLR on pooled features plus VICReg on matched patches (both from lightly), or the classes."""

from __future__ import annotations

import torch
from lightly.loss import NTXentLoss, VICRegLoss
from lightly.models.modules.heads import ProjectionHead
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F


class Contrast(nn.Module):
    """Self-supervised: the backbone with its two projection heads; only the backbone is kept after training."""

    def __init__(self, backbone: VisionTransformer, dim: int, temperature: float, dense_weight: float):
        super().__init__()
        self.backbone = backbone
        self.global_head = ProjectionHead([(dim, 256, nn.BatchNorm1d(256), nn.ReLU()), (256, 128, None, None)])
        self.dense_head = ProjectionHead([(dim, 256, nn.BatchNorm1d(256), nn.ReLU()), (256, 128, None, None)])
        self.contrast = NTXentLoss(temperature)
        self.vicreg = VICRegLoss()
        self.dense_weight = dense_weight

    def forward(self, views: tuple[Tensor, Tensor], maps: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Two views float [B, 3, H, W] of the same images and the maps [B, 2, 3] that made them -> loss, scalars."""
        feat_BND = self.backbone.forward_features(torch.cat(views))
        pooled_a, pooled_b = self.global_head(feat_BND.mean(1)).float().chunk(2)
        simclr = self.contrast(pooled_a, pooled_b)
        first, second = feat_BND.chunk(2)
        dense = self.vicreg(*[self.dense_head(rows).float() for rows in matched_patches(first, second, *maps)])
        return simclr + self.dense_weight * dense, {"simclr": simclr.detach(), "dense": dense.detach()}


class Supervised(nn.Module):
    """A linear classifier on the mean of the backbone's patches; only the backbone is kept after training."""

    def __init__(self, backbone: VisionTransformer, dim: int, num_classes: int):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(dim, num_classes)

    def forward(self, views: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Images float [B, 3, H, W] and their classes int64 [B] -> cross-entropy in nats, scalars."""
        logits_BC = self.head(self.backbone.forward_features(views).mean(1)).float()
        return F.cross_entropy(logits_BC, labels), {"accuracy": (logits_BC.argmax(1) == labels).float().mean()}


def matched_patches(first: Tensor, second: Tensor, map_a: Tensor, map_b: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [M, D] of view a and, from view b, the features interpolated where the same image point landed.

    first, second: [B, N, D]. Patches whose point lies outside view b are left out.
    """
    side = int(first.shape[1] ** 0.5)
    grid_a = F.affine_grid(map_a, [len(first), 1, side, side], align_corners=False).flatten(1, 2)  # image points
    inverse = torch.linalg.inv(map_b[:, :, :2])
    points = (grid_a - map_b[:, None, :, 2]) @ inverse.transpose(1, 2)  # the same points in view b
    second_map = second.transpose(1, 2).unflatten(2, (side, side)).float()
    found = F.grid_sample(second_map, points[:, :, None], align_corners=False)[..., 0].transpose(1, 2)
    inside = (points.abs() <= 1).all(-1)
    return first.float()[inside], found[inside]
