"""ADDP's training against the published numbers and its definition: levels, masks, images, targets, gradients.

Run: uv run pytest tests/test_addp.py
"""

import math

import pytest
import torch
from alternating import PARAMS, batch, model, predictor
from torch.nn import functional as F

from stages.core.networks import to_grid
from stages.generator import addp_masks
from stages.generator.addp_network import AddpNetwork, picture
from stages.generator.addp_training import Frozen, loss_fn

# --- levels and masks -------------------------------------------------------------------------------------------------


def test_there_are_66_levels_from_131_to_256_of_256_codes():
    shares, counts = addp_masks.masked_shares(), addp_masks.masked_counts(256)
    assert len(shares) == 66 and (shares.diff() < 0).all()
    assert [round(float(one), 5) for one in (shares.min(), shares.max())] == [0.50904, 0.99988]
    assert shares.tolist() == pytest.approx([math.cos(math.pi * i / 200) for i in range(1, 67)], abs=1e-15)
    assert (int(counts.min()), int(counts.max())) == (131, 256)


def test_levels_are_drawn_by_the_truncated_normal_density():
    shares, expected = addp_masks.masked_shares(), addp_masks.level_probabilities()
    rng = torch.Generator().manual_seed(0)
    drawn = torch.tensor([addp_masks.draw_levels(rng)[0] for _ in range(20_000)])
    found = torch.bincount(drawn, minlength=66) / len(drawn)
    assert float((found - expected).abs().max()) < 0.006
    densest = shares[expected.argmax()]
    assert abs(float(densest) - 0.55) == pytest.approx(float((shares - 0.55).abs().min()))
    assert float((expected * shares).sum()) == pytest.approx(0.745, abs=0.001)


def test_the_noisier_level_is_one_to_five_above_and_ends_at_the_top():
    rng = torch.Generator().manual_seed(0)
    pairs = [addp_masks.draw_levels(rng) for _ in range(20_000)]
    assert {level - noisier for level, noisier in pairs if level >= 5} == {1, 2, 3, 4, 5}
    assert {noisier for level, noisier in pairs if level <= 1} == {0}
    assert {level for level, _ in pairs} == set(range(66))


def test_masks_are_nested_and_hide_equally_many_codes_in_every_row():
    rng, counts = torch.Generator().manual_seed(0), addp_masks.masked_counts(64).tolist()
    for _ in range(200):
        mask, noisier = addp_masks.nested_masks(5, 64, rng)
        assert not (mask & ~noisier).any()
        assert len(set(mask.sum(1).tolist())) == len(set(noisier.sum(1).tolist())) == 1
        assert int(mask[0].sum()) in counts and int(noisier[0].sum()) in counts
    assert not torch.equal(mask[0], mask[1])


# --- training ---------------------------------------------------------------------------------------------------------


def half() -> torch.Tensor:
    """A mask of ten codes in each of four rows."""
    return torch.rand(4, 16, generator=torch.Generator().manual_seed(3)).argsort(1).argsort(1) < 10


def test_the_picture_is_of_known_codes_and_of_the_mean_code_where_they_are_masked():
    made, (_, codes) = model(), batch()
    mask, share = half(), torch.rand(40, 20).softmax(-1)
    vectors = made.pixels.vectors[codes].clone()
    for number, (row, place) in enumerate(mask.nonzero().tolist()):
        vectors[row, place] = sum(p * vector for p, vector in zip(share[number], made.pixels.vectors, strict=True))
    torch.testing.assert_close(picture(made.pixels, codes, mask, share), made.pixels.network(to_grid(vectors, 4)))
    whole = picture(made.pixels, codes, torch.zeros_like(mask), None)
    torch.testing.assert_close(whole, made.pixels(codes))


def test_the_networks_input_is_predicted_under_the_noisier_mask_and_its_target_under_the_other(monkeypatch):
    frozen, (labels, codes) = Frozen(predictor(), model().pixels, "fp32"), batch()
    mask = half()
    noisier = mask | (torch.arange(16) == 3)
    images, target = frozen.given(labels, codes, mask, noisier)
    torch.testing.assert_close(target.sum(1), torch.ones(40))
    whole = frozen.predictor(labels, codes.masked_fill(mask, 20)).softmax(-1)
    torch.testing.assert_close(target, whole[mask])
    softer = frozen.predictor(labels, codes.masked_fill(noisier, 20)).softmax(-1)[mask]
    torch.testing.assert_close(images, picture(frozen.pixels, codes, mask, softer))
    assert not torch.allclose(softer, target)


def test_logits_do_not_depend_on_the_image_when_all_is_masked():
    made, (labels, codes) = model().network, batch()
    one, two = torch.randn(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    all_masked = torch.ones(4, 16, dtype=torch.bool)
    assert torch.equal(made(one, labels, codes, all_masked), made(two, labels, codes + 1, all_masked))
    assert not torch.allclose(made(one, labels, codes, half()), made(two, labels, codes, half()))


def test_logits_do_not_depend_on_the_codes_that_are_masked():
    made, (labels, codes), mask = model().network, batch(), half()
    images = torch.randn(4, 3, 16, 16)
    other = torch.where(mask, (codes + 1) % 20, codes)
    assert torch.equal(made(images, labels, codes, mask), made(images, labels, other, mask))
    assert not torch.equal(made(images, labels, codes, mask), made(images, labels, (codes + 1) % 20, mask))


def test_unmasked_positions_get_no_gradient_and_masked_ones_that_of_the_soft_targets(monkeypatch):
    made, frozen = model().network.requires_grad_(True), Frozen(predictor(), model().pixels, "fp32")
    seen = {}
    made.norm.register_forward_hook(lambda module, given, hidden: seen.update(hidden=hidden) or hidden.retain_grad())
    forward = AddpNetwork.forward
    monkeypatch.setattr(AddpNetwork, "forward", lambda *a: seen.setdefault("logits", keep(forward(*a), seen, a[4])))
    loss, _ = loss_fn(frozen, PARAMS)(made, batch(), 0)
    loss.backward()
    slots = seen["hidden"].grad[:, 1:17]
    assert (slots[~seen["mask"]] == 0).all() and (slots[seen["mask"]].abs().sum(-1) > 0).all()
    assert (seen["hidden"].grad[:, 17:] == 0).all() and (seen["hidden"].grad[:, 0] == 0).all()
    labels, codes = batch()
    target = frozen.probabilities(labels, codes, seen["mask"], seen["mask"])
    smooth = 0.9 * target + 0.1 / 20
    expected = (seen["logits"].softmax(-1) - smooth) / len(smooth)
    torch.testing.assert_close(seen["logits"].grad, expected, atol=1e-7, rtol=1e-4)


def keep(logits: torch.Tensor, seen: dict, mask: torch.Tensor) -> torch.Tensor:
    """Remember the mask, and the gradient of the logits."""
    seen["mask"] = mask
    logits.retain_grad()
    return logits


def test_code_embeddings_get_no_gradient_as_weights_of_the_head():
    made, (labels, codes) = model().network.requires_grad_(True), batch()
    logits = made(torch.randn(4, 3, 16, 16), labels, codes, torch.ones(4, 16, dtype=torch.bool))
    F.cross_entropy(logits, codes.flatten()).backward()
    assert (made.embed_code.weight.grad == 0).all() and made.bias.grad.abs().sum() > 0
