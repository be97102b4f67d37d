"""Every documented teacher opens from a local file by its timm name: its own mean and std, patch size, prefix tokens.

Run: uv run pytest tests/test_teachers.py
The networks are timm's own, narrowed to two blocks, so that a checkpoint of each family is made here in a moment.
"""

import pytest
import torch

from stages.encoder.fetch import Params, check, fetch
from stages.encoder.model import load_encoder

TINY = {"embed_dim": 48, "depth": 2, "num_heads": 2}
TEACHERS = {
    "vit_base_patch14_reg4_dinov2.lvd142m": (14, 5, (0.485, 0.456, 0.406)),
    "vit_large_patch14_reg4_dinov2.lvd142m": (14, 5, (0.485, 0.456, 0.406)),
    "vit_base_patch16_dinov3.lvd1689m": (16, 5, (0.485, 0.456, 0.406)),
    "vit_base_patch16_224.dino": (16, 1, (0.485, 0.456, 0.406)),
    "vit_base_patch16_224.mae": (16, 1, (0.485, 0.456, 0.406)),
    "vit_base_patch16_clip_224.openai": (16, 1, (0.48145466, 0.4578275, 0.40821073)),
    "vit_base_patch16_224.augreg_in1k": (16, 1, (0.5, 0.5, 0.5)),
}


@pytest.fixture(params=TEACHERS)
def teacher(request, tmp_path, monkeypatch):
    """(name, a network of its family, the encoder artefact that the stage made of its weights)."""
    import timm
    from safetensors.torch import save_file

    whole = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *names, **options: whole(*names, **{**options, **TINY}))
    img_px = TEACHERS[request.param][0] * 4
    torch.manual_seed(0)
    network = timm.create_model(request.param, pretrained=False, img_size=img_px, num_classes=0).eval()
    with torch.no_grad():
        for parameter in network.parameters():  # biases and norms too: a tensor left out would show
            parameter.add_(torch.randn_like(parameter) * 0.02)
    save_file({key: tensor.contiguous() for key, tensor in network.state_dict().items()}, tmp_path / "w.safetensors")
    params = Params(name=request.param, weights=str(tmp_path / "w.safetensors"), img_px=img_px, precision="fp32")
    check(tmp_path, params)
    fetch(tmp_path, tmp_path / "encoder", params)
    return request.param, network, load_encoder(tmp_path / "encoder")


def test_its_patch_features_are_those_of_timm_on_images_normed_its_way(teacher):
    name, network, encoder = teacher
    patch_px, prefix, mean = TEACHERS[name]
    assert (encoder.grid, network.num_prefix_tokens) == (4, prefix)
    assert tuple(encoder.config["mean"]) == pytest.approx(mean) and encoder.config["patch_px"] == patch_px
    pixels = torch.rand(2, 3, encoder.img_px, encoder.img_px)
    std = torch.tensor(network.pretrained_cfg["std"])[:, None, None]
    with torch.inference_mode():
        wanted = network.forward_features((pixels - torch.tensor(mean)[:, None, None]) / std)[:, prefix:]
        found = encoder(pixels * 2 - 1, blocks=[1], final_norm=True)[0]
    assert found.shape == (2, 16, TINY["embed_dim"])
    torch.testing.assert_close(
        found, wanted if has_final_norm(network) else encoder.final_norm(wanted), atol=1e-4, rtol=1e-4
    )


def has_final_norm(network) -> bool:
    """Whether forward_features ends in the last LayerNorm; networks made for average pooling keep it in the head."""
    return not isinstance(network.norm, torch.nn.Identity)


def test_without_a_network_or_a_file_it_says_what_to_download_and_where_to_put_it(tmp_path, monkeypatch):
    from stages.core.errors import UserError

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    params = Params(name="vit_small_patch16_224.dino", weights="", img_px=224, precision="fp32")
    with pytest.raises(
        UserError, match=r"download https://huggingface.co/timm/vit_small_patch16_224.dino/resolve/main/m"
    ):
        fetch(tmp_path, tmp_path / "encoder", params)
