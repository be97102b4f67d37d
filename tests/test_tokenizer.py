"""Encoder, features, codebook and tokens: the path from images to codes.

Run: uv run pytest tests/test_tokenizer.py
"""

import shutil

import numpy as np
import pytest
import torch
import toy as toys
from hypothesis import given
from hypothesis import strategies as st

from stages.codebook.model import load_tokenizer
from stages.core import shards
from stages.core.codes import code_dtype
from stages.core.errors import UserError
from stages.core.pixels import to_float, to_uint8
from stages.core.usage import usage
from stages.data.reader import ImageSplit
from stages.encoder.blocks import block_number
from stages.encoder.fetch import Params as EncoderParams
from stages.encoder.fetch import check, fetch
from stages.encoder.model import Encoder, load_encoder, random_twin
from stages.tokens.reader import load_tokens

REGISTERS = "vit_wee_patch16_reg1_gap_256"  # timm's smallest with a register token


@pytest.fixture(scope="module")
def timm_encoder(tmp_path_factory):
    """A timm network with random weights, saved as a user would have downloaded it, opened by the stage."""
    import timm
    from safetensors.torch import save_file

    root = tmp_path_factory.mktemp("timm")
    torch.manual_seed(0)
    vit = timm.create_model(REGISTERS, pretrained=False)
    save_file(vit.state_dict(), root / "weights.safetensors")
    params = EncoderParams(name=REGISTERS, weights=str(root / "weights.safetensors"), img_px=64, precision="fp32")
    check(root, params)
    fetch(root, root / "encoder", params)
    return root / "encoder"


def test_local_weights_of_a_timm_network_are_really_loaded(timm_encoder):
    from safetensors.torch import load_file

    given, kept = load_file(timm_encoder.parent / "weights.safetensors"), load_file(timm_encoder / "model.safetensors")
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
    import timm

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
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors")
    params = EncoderParams(name=REGISTERS, weights=str(tmp_path / "w.safetensors"), img_px=64, precision="fp32")
    with pytest.raises(UserError, match="does not fit"):
        fetch(tmp_path, tmp_path / "encoder", params)


def test_an_unknown_network_says_what_was_expected(tmp_path):
    with pytest.raises(UserError, match="vit_nonsense_patch16"):
        fetch(
            tmp_path,
            tmp_path / "e",
            EncoderParams(name="vit_nonsense_patch16", weights="", img_px=64, precision="fp32"),
        )


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


def test_a_truncated_feature_shard_is_named(toy, tmp_path):
    shutil.copytree(toy / "data/features", tmp_path / "features")
    path = tmp_path / "features/train-000000.tar"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UserError, match="train-000000.tar.*dvc"):
        list(shards.read_arrays(tmp_path / "features", "features", "train"))


def test_features_are_one_row_a_patch_in_half_precision(toy):
    stored = dict(shards.read_arrays(toy / "data/features", "features", "val"))
    images, encoder = ImageSplit(toy / "data/images", "val"), load_encoder(toy / "data/encoder")
    assert list(stored) == images.keys
    wanted = encoder(to_float(images.read(range(len(images)))), blocks=[1], final_norm=True)[0]
    found = np.stack(list(stored.values()))
    assert found.dtype == np.float16 and found.shape == (len(images), 16, 32)
    np.testing.assert_allclose(found, wanted.numpy(), atol=2e-3)


def test_plain_webdataset_opens_the_feature_shards(toy):
    import warnings

    import webdataset

    paths = [str(path) for path in sorted((toy / "data/features").glob("val-*.tar"))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves its files to the garbage collector
        samples = list(webdataset.WebDataset(paths, shardshuffle=False).decode())
    assert samples[0]["npy"].shape == (16, 32)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40).filter(any))
def test_usage_stays_within_its_bounds(counts):
    figures = usage(np.array(counts))
    assert 0 < figures["live_fraction"] <= 1
    assert 0 <= figures["entropy_nats"] <= np.log(len(counts)) + 1e-9


def test_usage_of_uniform_and_single_codes():
    assert usage(np.full(8192, 3))["perplexity"] == pytest.approx(8192)
    assert usage(np.full(8192, 3))["entropy_nats"] == pytest.approx(9.0109, abs=1e-4)
    assert usage(np.array([0, 7, 0]))["perplexity"] == 1


def test_tokens_hold_the_tokenizers_codes_and_moved_views(toy):
    tokens, tokenizer = load_tokens(toy / "data/tokens/kmeans", "train"), load_tokenizer(toy / "data/codebook/kmeans")
    images = ImageSplit(toy / "data/images", "train")
    assert tokens.codes.shape == (2, len(images), 16) and tokens.codes.dtype == np.uint16
    assert np.array_equal(tokens.codes[0], tokenizer.encode(images.read(range(len(images)))))
    assert np.array_equal(tokens.labels, images.labels)
    assert 0.005 < (tokens.codes[1] != tokens.codes[0]).mean() < 0.9, "moved a little, not replaced"


@pytest.mark.parametrize(("num_codes", "dtype"), [(2, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
def test_codes_take_two_bytes_up_to_65536(num_codes, dtype):
    assert code_dtype(num_codes) == dtype
    assert np.array([num_codes - 1]).astype(dtype)[0] == num_codes - 1


def test_a_codebook_refuses_another_encoder_in_its_place(toy, tmp_path):
    shutil.copytree(toy / "data", tmp_path / "data")
    toys.write_params(tmp_path, {"encoder": {"precision": "bf16"}})
    shutil.copytree(toy / "weights", tmp_path / "weights")
    toys.run("encoder", tmp_path)
    with pytest.raises(UserError, match="not the encoder"):
        load_tokenizer(tmp_path / "data/codebook/kmeans")


def test_pixels_survive_the_round_trip():
    images = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert np.array_equal(to_uint8(to_float(images)), images)
    with pytest.raises(UserError, match=r"uint8 \[B, H, W, 3\]"):
        to_float(images.astype(np.float32))
