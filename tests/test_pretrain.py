"""Pretraining of embedded encoders: views, hybrid network, what is refused.

Run: uv run pytest tests/test_pretrain.py
"""

import contextlib
import io
import json

import photos
import pytest
import torch
import toy as toys
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

from stages.core import UserError
from stages.core.hardware import compute, prepare_blocks
from stages.core.images import random_clouds, random_colors
from stages.encoder.losses import Objective
from stages.encoder.vit import ConvStem, build_vit

HYBRID = {"source": "scenes", "depth": 1, "heads": 2, "dim": 64, "stem_blocks": 1, "store": "fp16", "class_weight": 1.0}
SCENES = {
    "source": "scenes",
    "folder": "data/code/no_folder",
    "scenes": {"count": 40, "max_objects": 2, "patterned": 0.8, "nuisance": 0.3},
}


def images(count: int = 6) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(7)) * 2 - 1


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_turned_colors_keep_every_pixels_strength_and_none_at_all_keeps_the_pixels():
    assert torch.equal(random_colors(images(), rng(), mix=0.0, gray=0.0), images())
    turned = random_colors(images(), rng(), mix=1.0, gray=0.0)
    torch.testing.assert_close(turned.norm(dim=1), images().norm(dim=1))
    assert (turned - images()).abs().mean((1, 2, 3)).min() > 0.1
    shift = turned.flatten(2) @ images().flatten(2).pinverse()  # one linear map an image, orthogonal
    torch.testing.assert_close(shift @ shift.mT, torch.eye(3).expand(6, 3, 3), atol=1e-4, rtol=0)


def test_gray_images_have_three_equal_channels_as_often_as_asked():
    seen = random_colors(images(400), rng(), mix=0.0, gray=0.25)
    gray = (seen.std(1).amax((1, 2)) < 1e-6).float()
    assert abs(float(gray.mean()) - 0.25) < 0.07
    torch.testing.assert_close(seen[gray == 1][:, 0], images(400)[gray == 1].mean(1))


def test_clouds_differ_between_images_and_stay_below_their_amplitude():
    assert torch.equal(random_clouds(images(), rng(), 0.0), images())
    field = random_clouds(torch.zeros(200, 3, 32, 32), rng(), 0.2)
    spread = field.std((1, 2, 3))
    assert 0.05 < float(spread.mean()) < 0.2 < 3**0.5 * 0.2 and float(spread.std()) > 0.02


def test_without_residual_blocks_the_network_is_the_one_whose_weights_are_shipped():
    shipped = load_file(toys.ROOT / "weights/digits/model.safetensors")
    shape = json.loads((toys.ROOT / "weights/digits/config.json").read_text())["shape"]
    own = build_vit(**shape, seed=0).state_dict()
    assert {key: value.shape for key, value in shipped.items()} == {key: value.shape for key, value in own.items()}


@pytest.mark.parametrize("name", ["digits", "scenes", "scenes-supervised"])
def test_shipped_weights_fit_their_networks_and_together_stay_small(name):
    folder = toys.ROOT / "weights" / name
    shape = json.loads((folder / "config.json").read_text())["shape"]
    build_vit(**shape, seed=0).load_state_dict(load_file(folder / "model.safetensors"))
    assert sum(path.stat().st_size for path in folder.parent.rglob("*.safetensors")) < 8e6


def test_residual_blocks_add_to_the_stem_alone_and_the_map_stays_8_by_8():
    shape = {"img_px": 32, "patch_px": 4, "dim": 64, "depth": 1, "heads": 2, "seed": 0}
    plain, hybrid = build_vit(**shape), build_vit(**shape, stem_blocks=2)
    size = [sum(p.numel() for p in net.blocks.parameters()) for net in (plain, hybrid)]
    assert size[0] == size[1]
    assert hybrid.forward_features(torch.zeros(2, 3, 32, 32)).shape == (2, 64, 64)
    assert sum(p.numel() for p in hybrid.patch_embed.parameters()) > 2 * sum(
        p.numel() for p in plain.patch_embed.parameters()
    )


def timms(*, img_px: int, patch_px: int, dim: int, depth: int, heads: int, seed: int, stem_blocks: int):
    """The same network by timm, with its own initial weights."""

    class Stem(ConvStem):
        num_patches = (img_px // patch_px) ** 2

        def __init__(self, **_: object):
            super().__init__(patch_px, dim, stem_blocks)

    torch.manual_seed(seed)
    return VisionTransformer(
        img_size=img_px, patch_size=patch_px, embed_dim=dim, depth=depth, num_heads=heads, embed_layer=Stem,
        class_token=False, global_pool="avg", num_classes=0, fc_norm=False,
    )  # fmt: skip


@pytest.mark.parametrize("stem_blocks", [0, 1])
@pytest.mark.parametrize("bf16", [False, True])
def test_weights_features_and_gradients_are_those_of_timms_network_to_the_bit(stem_blocks, bf16):
    shape = {"img_px": 16, "patch_px": 4, "dim": 64, "depth": 3, "heads": 2, "seed": 5, "stem_blocks": stem_blocks}
    own, other = build_vit(**shape), timms(**shape)
    assert [name for name, _ in own.named_parameters()] == [name for name, _ in other.named_parameters()]
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), other.parameters(), strict=True))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        wanted = other.forward_intermediates(images(), indices=[0, 2], output_fmt="NLC", intermediates_only=True)
        found = own.forward_intermediates(images(), indices=[0, 2])
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
        ends = [network.forward_features(images()) for network in (own, other)]
    assert torch.equal(*ends)
    for end in ends:
        end.float().square().mean().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(own.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_its_activations_may_be_computed_again_outside_of_autocast(precision):
    shape = {"img_px": 16, "patch_px": 4, "dim": 64, "depth": 3, "heads": 2, "seed": 5, "stem_blocks": 0}
    networks, device = [build_vit(**shape) for _ in range(2)], torch.device("cpu")
    prepare_blocks(
        networks[1], photos.MACHINE.model_copy(update={"recompute_activations": True}), device, compiled=False
    )
    for network in networks:
        with compute(device, precision):
            end = network.forward_features(images())
        end.float().square().mean().backward()
    weights = (network.parameters() for network in networks)
    assert all(torch.equal(one.grad, other.grad) for one, other in zip(*weights, strict=True))


def two_views():
    """Images and their horizontal flips, with the identity as maps."""
    return (images(8), images(8).flip(3)), (torch.eye(2, 3).expand(8, 2, 3), torch.eye(2, 3).expand(8, 2, 3))


def objective(**weights: float) -> Objective:
    """SimCLR and the terms asked for, on an untrained network."""
    vit = build_vit(img_px=16, patch_px=4, dim=32, depth=1, heads=2, seed=0)
    torch.manual_seed(0)
    plain = {"dense_weight": 0.0, "pixel_weight": 0.0, "class_weight": 0.0}
    return Objective(vit, 32, temperature=0.2, num_classes=4, **{**plain, **weights})


def test_the_pixel_term_is_the_error_of_a_linear_map_from_each_patch_to_its_own_pixels():
    views, maps = two_views()
    model, labels = objective(pixel_weight=3.0), torch.zeros(8, dtype=torch.long)
    loss, scalars = model(views, maps, labels)
    assert loss.item() == pytest.approx(scalars["simclr"].item() + 3 * scalars["pixel"].item(), rel=1e-5)
    row, column = 2, 1  # one patch by hand, and the mean over all of them
    both = torch.cat(views)
    predicted = model.to_pixels(model.backbone.forward_features(both))
    patch = both[5, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten()
    own = (predicted[5, 4 * row + column] - patch).square().mean()
    patches = both.unflatten(3, (4, 4)).unflatten(2, (4, 4)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    errors = (predicted - patches).square()
    assert errors[5, 4 * row + column].mean().item() == pytest.approx(own.item(), rel=1e-5)
    assert scalars["pixel"].item() == pytest.approx(errors.mean().item(), rel=1e-5)


def test_classes_count_only_where_they_have_a_weight():
    batch = two_views()
    labels = torch.arange(8) % 4
    losses = {}
    for weight in (0.0, 1.0):
        model = objective(class_weight=weight)
        losses[weight] = [model(*batch, some)[0].item() for some in (labels, labels.roll(1))]
    assert losses[0.0][0] == losses[0.0][1] and losses[1.0][0] != losses[1.0][1]


@pytest.fixture
def scenes(tmp_path):
    """A toy project whose images are scenes."""
    toys.write_params(tmp_path, {"data": {**SCENES, "val_fraction": 0.5}})
    toys.run("data", tmp_path)
    return tmp_path


def write_pretrain(root, section: dict) -> None:
    """pretrain.yaml of the toy with changes of its section."""
    toys.write_layers(root / "pretrain.yaml", toys.PRETRAIN, {"digits": section})


def test_a_hybrid_is_trained_by_classes_stored_in_16_bits_and_fetched_as_an_encoder(scenes):
    write_pretrain(scenes, HYBRID)
    toys.run("pretrain", scenes)
    stored = load_file(scenes / "weights/digits/model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert (scenes / "reports/pretrain/digits/plots/metrics/accuracy.tsv").is_file()
    toys.run("encoder", scenes)
    fetched = load_file(scenes / "data/encoder/model.safetensors")
    assert all(torch.equal(fetched[key], tensor.float()) for key, tensor in stored.items())


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"source": "digits"}, "digits.source = 'digits': data/images holds images of source scenes. Make others: "),
        ({"patch_px": 32, "dim": 512}, "pretrain.yaml: digits.patch_px = 32: expected a divisor of img_px = 16"),
    ],
)  # fmt: skip
def test_images_that_do_not_fit_are_refused_at_the_door(scenes, section, said):
    write_pretrain(scenes, {**HYBRID, **section})
    with pytest.raises(UserError, match=said):
        toys.run("pretrain", scenes)


def test_a_flat_folder_has_no_classes_to_be_supervised_by(tmp_path):
    toys.draw_pictures(tmp_path / "pictures")
    for path in sorted((tmp_path / "pictures").glob("*/*.png")):
        path.rename(tmp_path / "pictures" / f"{path.parent.name}-{path.name}")
        with contextlib.suppress(OSError):
            path.parent.rmdir()
    toys.write_params(tmp_path)
    write_pretrain(tmp_path, {"class_weight": 1.0})
    with contextlib.redirect_stdout(io.StringIO()):
        toys.run("data", tmp_path)
    with pytest.raises(UserError, match="digits.class_weight = 1.0: .* has no classes; expected 0.0"):
        toys.run("pretrain", tmp_path)
