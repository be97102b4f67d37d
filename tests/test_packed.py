"""Inference with packed weights and in bf16, against the plain network and torch's own functions.

Run: uv run pytest tests/test_packed.py
"""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stages.core import hardware, sampling, transformer
from stages.core.hardware import compute
from stages.core.networks import ConvDecoder
from stages.core.transformer import Product, for_sampling
from stages.decoder.decoder import Decoder
from stages.generator import ar, masked
from stages.generator.params import KINDS
from stages.generator.transformer import TokenTransformer
from stages.studies.decoding_variants import PACKED_PRODUCTS

CPU = torch.device("cpu")
PACKERS = ["", "oneDNN", "MKL"] if torch.backends.mkl.is_available() else ["", "oneDNN"]
SETTINGS = {"ar": KINDS["ar"].plain, "masked": KINDS["masked"].plain}
MODULES = {"ar": ar, "masked": masked}
RANDOM = {"top_p": 0.9, "guidance": 1.5}


def network(kind: str) -> TokenTransformer:
    """An untrained generator of 300 codes, 25 per image; larger weights, so that its logits differ."""
    torch.manual_seed(0)
    size = {
        "num_codes": 300,
        "num_classes": 3,
        "num_patches": 25,
        "grid": 5,
        "dim": 32,
        "depth": 3,
        "heads": 4,
        "dropout": 0.0,
    }
    model = TokenTransformer(**size, causal=kind == "ar").eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter *= 4 if parameter.ndim > 1 else 1
    return model


def draw(kind: str, model: TokenTransformer, **changes) -> torch.Tensor:
    """Codes of 12 samples."""
    settings = SETTINGS[kind].model_copy(update={**RANDOM, **changes})
    return MODULES[kind].sample(model, torch.arange(12) % 4, settings, seed=3)


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("gelu", [False, True])
def test_a_product_is_the_linear_map_for_any_number_of_rows(packer, gelu, monkeypatch):
    monkeypatch.setattr(transformer, "packer_of", lambda *_: packer)
    torch.manual_seed(0)
    linear = nn.Linear(48, 80)
    product = Product(linear, 8, torch.float32, gelu)
    for shape in ((8, 48), (4, 2, 48), (3, 48), (2, 5, 48), (0, 48)):
        x = torch.randn(shape)
        expected = nn.functional.gelu(linear(x)) if gelu else linear(x)
        torch.testing.assert_close(product(x), expected.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("kind", ["ar", "masked"])
def test_packed_weights_give_the_codes_of_plain_ones(kind, packer, monkeypatch):
    model = network(kind)
    monkeypatch.setattr(transformer, "packer_of", lambda *_: "")
    plain = draw(kind, model)
    monkeypatch.setattr(transformer, "packer_of", lambda *_: packer)
    assert torch.equal(draw(kind, model), plain) and len(plain.unique()) > 30


def test_packing_is_for_few_rows_and_only_on_a_cpu(monkeypatch):
    large, small = nn.Linear(512, 512), nn.Linear(64, 64)
    for name, expected in (("Intel Xeon", ["MKL", "MKL"]), ("AMD EPYC", ["oneDNN", ""])):
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda name=name: {"architecture": "x86_64", "cpu_name": name}
        )
        monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
        assert [transformer.packer_of(one, 16, torch.float32) for one in (large, small)] == expected
        assert not any(transformer.packer_of(large, rows, torch.float32) for rows in (1, 6400))
        assert transformer.packer_of(small, 6400, torch.bfloat16) == "oneDNN"
        assert transformer.packer_of(large.to("meta"), 16, torch.float32) == ""
        large = nn.Linear(512, 512)


@pytest.mark.parametrize("kind", ["ar", "masked"])
def test_the_network_for_sampling_shares_what_it_does_not_pack(kind):
    model = network(kind)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with compute(CPU, "bf16"):
        twin = for_sampling(model, 12)
    assert twin.embed_code.weight is model.embed_code.weight and twin.norm.weight is model.norm.weight
    draw(kind, model, precision="bf16")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(isinstance(module, Product) for module in model.modules())


@pytest.mark.parametrize("kind", ["ar", "masked"])
def test_sampling_in_bf16_is_reproducible_and_near_that_in_fp32(kind):
    model, codes = network(kind), torch.randint(300, (12, 25))
    exact = model(torch.arange(12) % 4, codes)
    with compute(CPU, "bf16"), torch.inference_mode():
        near = for_sampling(model, 12)(torch.arange(12) % 4, codes)
    assert near.dtype == torch.float32
    assert float((near - exact).std() / exact.std()) < 0.03
    assert torch.equal(draw(kind, model, precision="bf16"), draw(kind, model, precision="bf16"))


@pytest.mark.parametrize("kind", ["ar", "masked"])
def test_bf16_is_fp32_on_a_cpu_without_instructions_for_it(kind, monkeypatch):
    model = network(kind)
    expected = draw(kind, model)
    monkeypatch.setattr(hardware, "_has_instructions", lambda precision: precision == "fp32")
    assert torch.equal(draw(kind, model, precision="bf16"), expected)


class Convolutional(Decoder):
    """Images of 16 px from one code at each of 4 x 4 places."""

    def decode_batch(self, codes_BN, seeds_B):
        return self.network(nn.functional.one_hot(codes_BN, 8).float().view(-1, 4, 4, 8).permute(0, 3, 1, 2))


def test_images_decoded_in_bf16_differ_by_two_gray_levels_at_most():
    torch.manual_seed(0)
    config = {"num_codes": 8, "codebooks": 1, "grid": 4}
    decoder = Convolutional(ConvDecoder(8, [32, 16, 16], 1), config, "cpu")
    codes = torch.randint(8, (20, 16))
    exact, near = (decoder.in_precision(one).decode(codes).astype(int) for one in ("fp32", "bf16"))
    assert decoder.precision == "fp32" and exact.std() > 5
    assert abs(exact - near).max() <= 2
    assert (exact != near).any() == hardware._has_instructions("bf16")


@pytest.mark.parametrize("packer", PACKERS)
def test_operations_with_packed_weights_are_counted(packer, monkeypatch):
    monkeypatch.setattr(transformer, "packer_of", lambda *_: packer)
    product = Product(nn.Linear(48, 80), 8, torch.float32)
    with FlopCounterMode(display=False, custom_mapping=PACKED_PRODUCTS) as counter, torch.inference_mode():
        product(torch.randn(4, 2, 48))
    assert counter.get_total_flops() == 2 * 8 * 48 * 80


def test_logits_are_sorted_as_torch_sorts_them():
    torch.manual_seed(0)
    logits = torch.randn(40, 70).round(decimals=1) * torch.tensor([1.0, 1e-30, 1e30, 0.0])[:, None, None]
    logits[:, 3, 5:9], logits[:, 4, 2], logits[:, 5, ::2] = -torch.inf, torch.inf, -0.0
    ordered, order = sampling.descending(logits)
    expected = torch.sort(logits, dim=-1, descending=True, stable=True)
    assert torch.equal(order, expected.indices) and torch.equal(ordered, expected.values)
