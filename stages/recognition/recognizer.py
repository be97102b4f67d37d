"""A network with a head: frozen, or tuned with layer decay of the learning rate and drop path."""

from functools import partial
from typing import Any, Self

import torch
from timm.layers import drop_path
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from stages.core.optimizer import is_free
from stages.core.schemas import Optim
from stages.recognition.backbone import Backbone
from stages.recognition.params import Tuning

BLOCK = r"^backbone\.\w+\.(?:blocks|mixing)\.(\d+)"
STEM = r"^backbone\.\w+\.(?!blocks|mixing|norm|fc_norm)"  # what comes before the blocks; norms count as the head's


class Recognizer(nn.Module):
    """Images -> what the head makes of the maps. Without `tuning` the backbone stays in evaluation mode."""

    def __init__(self, backbone: Backbone, head: nn.Module, tuning: Tuning | None):
        super().__init__()
        self.backbone, self.head, self.tuning = backbone.requires_grad_(tuning is not None), head, tuning
        branches = backbone.branches() if tuning else []
        for number, of_block in enumerate(branches):
            assert tuning is not None
            rate = tuning.drop_path * number / max(1, len(branches) - 1)
            for branch in of_block if rate else ():
                branch.register_forward_hook(partial(dropped, rate))

    def forward(self, pixels: Tensor, *more: Any) -> Any:
        """float [B, 3, H, W] in [-1, 1]."""
        with torch.set_grad_enabled(self.tuning is not None and torch.is_grad_enabled()):
            maps = self.backbone(pixels)
        return self.head(maps, *more)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.backbone.train(mode and self.tuning is not None)
        return self

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """How timm numbers layers, from the input to the head."""
        return {"stem": STEM, "blocks": [(BLOCK, None)]}

    def parameter_groups(self, optim: Optim) -> list[dict[str, Any]]:
        """Groups for AdamW, with `lr_scale` = layer_decay^(layers above)."""
        free = [name for name, parameter in self.named_parameters() if is_free(name, parameter)]
        decay = self.tuning.layer_decay if self.tuning else 1.0
        return param_groups_layer_decay(self, optim.weight_decay, no_weight_decay_list=free, layer_decay=decay)


def dropped(rate: float, branch: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """A forward hook: the output of a branch, zero for a share of the images while it is trained."""
    return drop_path(output, rate, branch.training)
