"""vqkd: unit codes that follow their vectors, an encoder that learns a teacher's features.

Run: uv run pytest tests/test_vqkd.py
"""

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional as F

from stages.codebook.encoder_features import EncoderFeatures
from stages.codebook.params import Inputs
from stages.codebook.vqkd import open_teacher
from stages.codebook.vqkd_encoder import VQKD, EmaVq, FeatureDecoder, VqkdEncoder, cosine_loss, ema_step
from stages.core.images import to_float
from stages.data.reader import ImageSplit
from stages.encoder.encoder import Encoder
from stages.features.reader import FeatureSplit

SHAPE = {"img_px": 16, "patch_px": 4, "dim": 32, "depth": 1, "heads": 2, "seed": 0}


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def quantizer(num_codes: int = 8, dim: int = 4, revive: bool = False) -> EmaVq:
    torch.manual_seed(0)
    return EmaVq(num_codes, dim, 0.99, revive)


def vqkd(teacher_dim: int = 12) -> VQKD:
    torch.manual_seed(0)
    return VQKD(VqkdEncoder(SHAPE, 4), quantizer(), FeatureDecoder(4, 16, 32, 1, 2, teacher_dim), commitment=1.0)


def brute_force_update(vectors: np.ndarray, z: np.ndarray, decay: float) -> np.ndarray:
    """The published rule, code by code in float64."""
    codes = np.array([np.argmax(vectors @ row) for row in z])
    new = vectors.copy()
    for k in set(codes):
        mean = z[codes == k].mean(0)
        average = decay * vectors[k] + (1 - decay) * mean / np.linalg.norm(mean)
        new[k] = average / np.linalg.norm(average)
    return new


@pytest.mark.parametrize("decay", [0.99, 0.5, 0.0])
def test_the_moving_average_equals_the_published_rule(decay):
    vectors, z = unit(20, 6), unit(50, 6, seed=1)
    layer = EmaVq(20, 6, decay, revive=False)
    layer.vectors = vectors.clone()
    layer.train()(z)
    expected = brute_force_update(vectors.double().numpy(), z.double().numpy(), decay)
    np.testing.assert_allclose(layer.vectors.numpy(), expected, atol=1e-6)


def test_after_every_update_codes_have_unit_length_and_unused_ones_their_old_bytes():
    layer = quantizer(num_codes=30).train()
    for step in range(20):
        before, z = layer.vectors.clone(), unit(2, 6, 4, seed=step)
        _, codes, _ = layer(z)
        unused = torch.bincount(codes.flatten(), minlength=30) == 0
        assert unused.any() and torch.equal(layer.vectors[unused], before[unused])
        assert not torch.equal(layer.vectors[~unused], before[~unused])
        torch.testing.assert_close(layer.vectors.norm(dim=1), torch.ones(30))


def test_evaluation_leaves_the_codes_alone():
    layer = quantizer(revive=True).eval()
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    layer(unit(40, 4))
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())


def test_each_vector_takes_the_code_of_the_largest_cosine_even_of_averaged_codes():
    layer, z = quantizer(num_codes=16).eval(), unit(100, 4)
    layer.vectors *= torch.linspace(0.2, 1, 16)[:, None]  # averages over steps are shorter than 1
    quantized, codes, _ = layer(z)
    expected = F.cosine_similarity(z[:, None], layer.vectors[None], dim=-1).argmax(1)
    assert torch.equal(codes, expected)
    torch.testing.assert_close(quantized, F.normalize(layer.vectors, dim=-1)[codes])


def test_codes_get_no_gradient_and_vectors_get_that_of_their_codes():
    model = vqkd()
    assert {name for name, _ in model.named_parameters() if "quantizer" in name} == set()
    assert {"quantizer.vectors", "quantizer.share"} <= set(model.state_dict())
    layer, z = quantizer(), unit(10, 4).requires_grad_()
    quantized, _, _ = layer(z)
    given = torch.randn(10, 4)
    (quantized * given).sum().backward()
    assert torch.equal(z.grad, given), "straight through"
    assert not layer.vectors.requires_grad


def test_the_commitment_is_the_mean_square_distance_to_the_code_and_pulls_the_vectors():
    layer, z = quantizer(), unit(10, 4).requires_grad_()
    vectors = layer.vectors.clone()
    _, codes, loss = layer(z)
    loss.backward()
    difference = z.detach() - vectors[codes]
    torch.testing.assert_close(loss.detach(), difference.square().mean())
    torch.testing.assert_close(z.grad, 2 * difference / difference.numel())


def test_the_loss_ignores_the_length_of_the_teachers_features():
    model, pixels, teacher = vqkd().eval(), torch.rand(3, 3, 16, 16), torch.randn(3, 16, 12)
    lengths = torch.rand(3, 16, 1) * 100 + 0.01
    loss, scalars = model(pixels, teacher)
    torch.testing.assert_close(model(pixels, teacher * lengths)[0], loss)
    torch.testing.assert_close(loss, scalars["cosine_loss"] + scalars["commitment"])
    assert cosine_loss(teacher, teacher * 3).abs() < 1e-6
    torch.testing.assert_close(cosine_loss(teacher, -teacher), torch.tensor(2.0))


def test_the_gradient_reaches_the_encoder_and_never_the_teacher():
    model, teacher = vqkd().train(), torch.randn(3, 16, 12, requires_grad=True)
    model(torch.rand(3, 3, 16, 16), teacher)[0].backward()
    assert teacher.grad is None
    assert all(p.grad is not None and p.grad.any() for p in model.encoder.head.parameters())


def test_kmeans_starts_the_codes_in_the_middle_of_separated_clusters():
    torch.manual_seed(0)
    centers = torch.eye(8)[:6]
    z = F.normalize(centers.repeat_interleave(50, 0) + 0.05 * torch.randn(300, 8), dim=-1)
    layer = EmaVq(24, 8, 0.99, revive=False)
    layer.start_from(z)
    torch.testing.assert_close(layer.vectors.norm(dim=1), torch.ones(24))
    assert ((centers @ layer.vectors.T).max(1).values > 0.97).all()
    fitness = (z @ layer.vectors.T).max(1).values.mean()
    moved_on = ema_step(layer.vectors, z, (z @ layer.vectors.T).argmax(1), 0.0)
    assert (z @ moved_on.T).max(1).values.mean() - fitness < 1e-3, "Lloyd has nearly settled"


def test_dead_codes_go_to_the_batch_and_live_ones_stay():
    layer = quantizer(num_codes=4, revive=True).train()
    z = F.normalize(torch.tensor([1.0, 0.1, 0, 0]) + 0.01 * torch.randn(64, 4), dim=-1)
    layer.vectors = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, -1.0]])
    layer(z)
    assert (layer.vectors @ z.mean(0)).min() > 0.99
    torch.testing.assert_close(layer.vectors.norm(dim=1), torch.ones(4))


@pytest.mark.parametrize("reg_tokens", [0, 4])
def test_vector_i_of_the_teacher_belongs_to_patch_i(reg_tokens):
    """Published code keeps the class token and drops the last patch, so that all targets are shifted by one."""
    config = {
        "img_px": 16,
        "patch_px": 4,
        "dim": 32,
        "depth": 2,
        "precision": "fp32",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    vit = patchwise_vit(class_token=True, reg_tokens=reg_tokens)
    assert changed_vectors(EncoderFeatures(Encoder(vit, config), [1], final_norm=True)) == [[i] for i in range(16)]


def test_vector_i_of_the_encoder_belongs_to_patch_i():
    encoder = VqkdEncoder(SHAPE, 4)
    with torch.no_grad():
        encoder.vit.blocks[0].attn.proj.weight.zero_()
    assert [changed[0] for changed in changed_vectors(encoder.vit.forward_features)] == list(range(16))


def patchwise_vit(**kwargs) -> VisionTransformer:
    """A transformer whose blocks look at one token each: every patch's vector is a function of that patch alone."""
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=2, num_classes=0, **kwargs)
    with torch.no_grad():
        for block in vit.blocks:
            block.attn.proj.weight.zero_()
    return vit


@torch.inference_mode()
def changed_vectors(network) -> list[list[int]]:
    """For each patch, the vectors that its first pixel changes, the most changed first."""
    pixels, found = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1, []
    for patch in range(16):
        changed = pixels.clone()
        changed[..., patch // 4 * 4, patch % 4 * 4] += 3
        by = (network(changed) - network(pixels)).norm(dim=-1)[0]
        found.append(by.argsort(descending=True)[: int((by > 0).sum())].tolist())
    return found


def test_the_teachers_output_is_the_stored_features_in_their_order(toy):
    inputs = Inputs("vqkd", *(toy / "data" / name for name in ("images", "encoder", "features")), toy, toy)
    stored = torch.from_numpy(FeatureSplit(inputs.features, "train").read(range(8))).float()
    pixels = to_float(ImageSplit(inputs.images, "train").read(range(8)))
    with torch.inference_mode():
        features = open_teacher(inputs, torch.device("cpu"))(pixels)
    assert cosine_loss(features, stored) < 1e-4
    assert cosine_loss(features.roll(1, dims=1), stored) > 1e-2, "a shift by one patch would show"
