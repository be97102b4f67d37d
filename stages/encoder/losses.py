"""The objective: SimCLR on pooled features and VICReg on matched patches; pixel and class terms are optional.

Contrast between strongly recolored views removes color from the features. The pixel term predicts the pixels of each
patch from its feature by a linear map, so that features keep both content and appearance.
"""

import torch
from lightly.loss import NTXentLoss, VICRegLoss
from lightly.models.modules.heads import ProjectionHead
from torch import Tensor, nn
from torch.nn import functional as F

from stages.encoder.vit import VisionTransformer


class Objective(nn.Module):
    """The backbone with its projection heads, and a classifier if class_weight is not 0; only the backbone is kept."""

    def __init__(
        self,
        backbone: VisionTransformer,
        dim: int,
        *,
        temperature: float,
        dense_weight: float,
        pixel_weight: float,
        class_weight: float,
        num_classes: int,
    ):
        super().__init__()
        self.backbone = backbone
        self.global_head = ProjectionHead([(dim, 256, nn.BatchNorm1d(256), nn.ReLU()), (256, 128, None, None)])
        self.dense_head = ProjectionHead([(dim, 256, nn.BatchNorm1d(256), nn.ReLU()), (256, 128, None, None)])
        self.patch_px: int = backbone.patch_embed.patch_size[0]
        self.to_pixels = nn.Linear(dim, 3 * self.patch_px**2) if pixel_weight else None
        self.classifier = nn.Linear(dim, num_classes) if class_weight else None
        self.contrast = NTXentLoss(temperature)
        self.vicreg = VICRegLoss()
        self.dense_weight, self.pixel_weight, self.class_weight = dense_weight, pixel_weight, class_weight

    def forward(
        self, views: tuple[Tensor, Tensor], maps: tuple[Tensor, Tensor], labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Two views float [B, 3, H, W], their maps [B, 2, 3], classes int64 [B] -> loss, scalars.

        Without class_weight the classes are not read.
        """
        both = torch.cat(views)
        feat_BND = self.backbone.forward_features(both)
        pooled = feat_BND.mean(1)
        pooled_a, pooled_b = self.global_head(pooled).float().chunk(2)
        simclr = self.contrast(pooled_a, pooled_b)
        first, second = feat_BND.chunk(2)
        dense = self.vicreg(*[self.dense_head(patches).float() for patches in matched_patches(first, second, *maps)])
        loss, scalars = simclr + self.dense_weight * dense, {"simclr": simclr.detach(), "dense": dense.detach()}
        if self.to_pixels is not None:
            wanted = F.pixel_unshuffle(both, self.patch_px).flatten(2).transpose(1, 2)
            pixel = F.mse_loss(self.to_pixels(feat_BND).float(), wanted)
            loss, scalars["pixel"] = loss + self.pixel_weight * pixel, pixel.detach()
        if self.classifier is not None:
            logits, twice = self.classifier(pooled).float(), labels.repeat(2)
            loss = loss + self.class_weight * F.cross_entropy(logits, twice)
            scalars["accuracy"] = (logits.argmax(1) == twice).float().mean()
        return loss, scalars


def matched_patches(first: Tensor, second: Tensor, map_a: Tensor, map_b: Tensor) -> tuple[Tensor, Tensor]:
    """Features [M, D] of view a, and those of view b interpolated at the same image points.

    first, second: [B, N, D]. Patches whose point lies outside view b are omitted.
    """
    side = int(first.shape[1] ** 0.5)
    grid_a = F.affine_grid(map_a, [len(first), 1, side, side], align_corners=False).flatten(1, 2)  # image points
    inverse = torch.linalg.inv(map_b[:, :, :2])
    points = (grid_a - map_b[:, None, :, 2]) @ inverse.transpose(1, 2)  # the same points in view b
    second_map = second.transpose(1, 2).unflatten(2, (side, side)).float()
    found = F.grid_sample(second_map, points[:, :, None], align_corners=False)[..., 0].transpose(1, 2)
    inside = (points.abs() <= 1).all(-1)
    return first.float()[inside], found[inside]
