"""The encoder: timm networks from local files, embedded ones from weights/, block features, what is refused.

Run: uv run pytest tests/test_encoder.py
The documented teachers are timm's own networks, narrowed to two blocks, so that a checkpoint takes a moment.
"""

import shutil
import subprocess
import sys

import pytest
import timm
import torch
import toy as toys
from safetensors.torch import load_file, save_file

from stages.core import UserError
from stages.encoder.embedded import copy, keeps_its_size
from stages.encoder.encoder import Encoder, block_number, load_encoder, random_twin
from stages.encoder.params import EncoderParams
from stages.encoder.sources import check, fetch

REGISTERS = "vit_wee_patch16_reg1_gap_256"  # timm's smallest with a register token
TINY = {"embed_dim": 48, "depth": 2, "num_heads": 2}
TEACHERS = {
    "vit_base_patch14_reg4_dinov2.lvd142m": (14, 5, (0.485, 0.456, 0.406)),
    "vit_large_patch14_reg4_dinov2.lvd142m": (14, 5, (0.485, 0.456, 0.406)),
    "vit_base_patch16_dinov3.lvd1689m": (16, 5, (0.485, 0.456, 0.406)),
    "vit_base_patch16_224.dino": (16, 1, (0.485, 0.456, 0.406)),
    "vit_base_patch16_224.mae": (16, 1, (0.485, 0.456, 0.406)),
    "vit_base_patch16_clip_quickgelu_224.openai": (16, 1, (0.48145466, 0.4578275, 0.40821073)),
    "vit_base_patch16_224.augreg_in1k": (16, 1, (0.5, 0.5, 0.5)),
}


@pytest.fixture(params=TEACHERS)
def teacher(request, tmp_path, monkeypatch):
    """(name, a network of its family, the encoder artifact that the stage made of its weights)."""
    whole = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *names, **options: whole(*names, **{**options, **TINY}))
    img_px = TEACHERS[request.param][0] * 4
    torch.manual_seed(0)
    network = timm.create_model(request.param, pretrained=False, img_size=img_px, num_classes=0).eval()
    with torch.no_grad():
        for parameter in network.parameters():  # biases and norms too: a tensor left out would show
            parameter.add_(torch.randn_like(parameter) * 0.02)
    save_file({key: tensor.contiguous() for key, tensor in network.state_dict().items()}, tmp_path / "w.safetensors")
    params = EncoderParams(name=request.param, weights=str(tmp_path / "w.safetensors"), img_px=img_px, precision="fp32")
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
    """True if forward_features ends in the last LayerNorm; networks made for average pooling keep it in the head."""
    return not isinstance(network.norm, torch.nn.Identity)


def test_without_a_network_or_a_file_it_says_what_to_download_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    params = EncoderParams(name="vit_small_patch16_224.dino", weights="", img_px=224, precision="fp32")
    with pytest.raises(
        UserError, match=r"download https://huggingface.co/timm/vit_small_patch16_224.dino/resolve/main/m"
    ):
        fetch(tmp_path, tmp_path / "encoder", params)


# --- block features ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def timm_encoder(tmp_path_factory):
    """A timm network with random weights, saved as a user would have downloaded it, opened by the stage."""
    root = tmp_path_factory.mktemp("timm")
    torch.manual_seed(0)
    vit = timm.create_model(REGISTERS, pretrained=False)
    save_file(vit.state_dict(), root / "w.safetensors")
    params = EncoderParams(name=REGISTERS, weights=str(root / "w.safetensors"), img_px=64, precision="fp32")
    check(root, params)
    fetch(root, root / "encoder", params)
    return root / "encoder"


def test_local_weights_of_a_timm_network_are_really_loaded(timm_encoder):
    given, kept = (
        load_file(path) for path in (timm_encoder.parent / "w.safetensors", timm_encoder / "model.safetensors")
    )
    assert torch.equal(given["blocks.3.mlp.fc1.weight"], kept["blocks.3.mlp.fc1.weight"])


def test_block_features_are_that_blocks_output_normed_without_prefix_tokens(timm_encoder):
    encoder = load_encoder(timm_encoder)
    pixels, seen = torch.rand(2, 3, 64, 64) * 2 - 1, {}
    hook = encoder.vit.blocks[9].register_forward_hook(lambda _, __, out: seen.setdefault("x", out))
    feats = encoder(pixels, blocks=[9], final_norm=True)[0]
    hook.remove()
    assert feats.shape == (2, 16, encoder.dim), "4 x 4 patches, the register is gone"
    torch.testing.assert_close(feats, encoder.vit.fc_norm(seen["x"])[:, encoder.vit.num_prefix_tokens :])


def test_dinov2_with_registers_gives_256_patches_of_block_9_before_its_final_norm():
    """Papers, statements 8 and 9, on timm's own network at DiGIT's size; random weights."""
    vit, seen = timm.create_model("vit_small_patch14_reg4_dinov2", pretrained=False, img_size=224, num_classes=0), {}
    config = {"img_px": 224, "patch_px": 14, "dim": 384, "depth": 12, "precision": "fp32"}
    encoder = Encoder(vit, {**config, "mean": [0.5] * 3, "std": [0.5] * 3})
    hook = vit.blocks[9].register_forward_hook(lambda _, __, out: seen.setdefault("x", out))
    with torch.inference_mode():
        plain = encoder(torch.rand(1, 3, 256, 256) * 2 - 1, blocks=[9], final_norm=False)[0]
    hook.remove()
    assert vit.num_prefix_tokens == 5 and seen["x"].shape == (1, 5 + 256, 384), "CLS and four registers"
    assert plain.shape == (1, 16 * 16, 384)
    torch.testing.assert_close(plain, seen["x"][:, 5:])


def test_three_blocks_from_the_end_are_block_9_of_12_and_21_of_24():
    assert (block_number("features.block", -3, 12), block_number("features.block", -3, 24)) == (9, 21)
    with pytest.raises(UserError, match="24 blocks: expected -24 … 23"):
        block_number("features.block", 24, 24)


def test_the_final_norm_gives_mean_zero_and_variance_one_before_its_affine(timm_encoder):
    encoder = load_encoder(timm_encoder)
    with torch.no_grad():
        encoder.vit.fc_norm.weight.fill_(1), encoder.vit.fc_norm.bias.fill_(0)
    feats = encoder(torch.rand(2, 3, 64, 64), blocks=[9], final_norm=True)[0]
    torch.testing.assert_close(feats.mean(-1), torch.zeros(2, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(feats.var(-1, correction=0), torch.ones(2, 16), atol=1e-3, rtol=0)


def test_several_blocks_at_once_equal_each_alone_and_gradients_reach_the_pixels(timm_encoder):
    encoder, pixels = load_encoder(timm_encoder), torch.rand(1, 3, 64, 64, requires_grad=True)
    both = encoder(pixels, blocks=[5, 2], final_norm=False)
    for found, block in zip(both, [5, 2], strict=True):
        torch.testing.assert_close(found, encoder(pixels, blocks=[block], final_norm=False)[0])
    both[0].sum().backward()
    assert pixels.grad.abs().sum() > 0 and all(p.grad is None for p in encoder.parameters())


def test_wrong_weights_are_refused_with_the_reason(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors")
    params = EncoderParams(name=REGISTERS, weights=str(tmp_path / "w.safetensors"), img_px=64, precision="fp32")
    with pytest.raises(UserError, match="does not fit"):
        fetch(tmp_path, tmp_path / "encoder", params)


def test_an_unknown_network_says_what_was_expected(tmp_path):
    params = EncoderParams(name="vit_nonsense_patch16", weights="", img_px=64, precision="fp32")
    with pytest.raises(UserError, match="vit_nonsense_patch16"):
        fetch(tmp_path, tmp_path / "encoder", params)


def test_embedded_weights_are_encoder_artifacts_and_fetched_unchanged(tmp_path):
    params = EncoderParams(name="scenes", weights="", img_px=32, precision="fp32")
    fetch(toys.ROOT / "weights", tmp_path / "encoder", params)
    embedded, fetched = load_encoder(toys.ROOT / "weights/scenes"), load_encoder(tmp_path / "encoder")
    assert embedded.config["name"] == fetched.config["name"] == "scenes" and embedded.dim == fetched.dim == 128
    assert all(torch.equal(a, b) for a, b in zip(embedded.parameters(), fetched.parameters(), strict=True))


@pytest.mark.parametrize("name", ["digits", "scenes", "scenes-supervised"])
def test_a_copy_without_torch_has_the_bytes_of_what_the_network_would_save(name, tmp_path):
    params = EncoderParams(name=name, weights="", img_px=32, precision="fp32")
    fetch(toys.ROOT / "weights", tmp_path / "opened", params)
    copy(toys.ROOT / "weights", tmp_path / "copied", params)
    assert toys.hashes(tmp_path / "copied") == toys.hashes(tmp_path / "opened")
    assert keeps_its_size(toys.ROOT / "weights", params)
    assert not keeps_its_size(toys.ROOT / "weights", params.model_copy(update={"img_px": 64}))
    code = "import sys, stages.encoder.embedded; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=toys.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_an_embedded_encoder_and_the_losses_load_neither_timm_nor_lpips(toy):
    code = (
        "import sys, stages.core.networks; from stages.encoder.encoder import load_encoder; load_encoder(sys.argv[1]); "
    )
    code += "print({'timm', 'torchvision', 'lpips'} & {*sys.modules})"
    command = [sys.executable, "-c", code, str(toy / "data/encoder")]
    done = subprocess.run(command, cwd=toys.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_twin_is_random_seeded_and_of_the_same_shape(toy):
    encoder, twin = load_encoder(toy / "data/encoder"), random_twin(toy / "data/encoder", 7)
    assert [p.shape for p in encoder.parameters()] == [p.shape for p in twin.parameters()]
    again = random_twin(toy / "data/encoder", 7)
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), again.parameters(), strict=True))
    assert not torch.equal(twin.vit.blocks[0].mlp.fc1.weight, encoder.vit.blocks[0].mlp.fc1.weight)


def test_an_edited_weights_file_is_refused(toy, tmp_path):
    shutil.copytree(toy / "data/encoder", tmp_path / "encoder")
    path = tmp_path / "encoder/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="sha256 differs.*dvc"):
        load_encoder(tmp_path / "encoder")
