"""The head of UPerNet (Xiao et al. 2018), transformers' own, on the maps of a vision transformer."""

from torch import Tensor, nn
from transformers import UperNetConfig
from transformers.models.upernet.modeling_upernet import UperNetHead

from stages.recognition.pyramid import Scales


class UPerNet(nn.Module):
    """Four levels of maps -> logits [B, K, 4 g, 4 g]: pooled context of the coarsest, merged from coarse to fine."""

    def __init__(self, dims: list[int], width: int, classes: int):
        super().__init__()
        self.scales = Scales(dims)
        self.merge = UperNetHead(
            UperNetConfig(hidden_size=width, id2label=dict.fromkeys(range(classes), "")), self.scales.dims
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        return self.merge(self.scales(maps))
