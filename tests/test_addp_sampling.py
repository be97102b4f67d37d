"""ADDP's sampling against its definition: the table of steps, kept codes, in-painting, batches.

Run: uv run pytest tests/test_addp_sampling.py
"""

import itertools
import math

import pytest
import torch
from alternating import batch, model, setting
from torch.nn import functional as F

from stages.generator import addp
from stages.generator.addp_network import Addp, AddpNetwork

# --- sampling ---------------------------------------------------------------------------------------------------------


def test_the_published_table_of_20_steps():
    counts = [addp.still_masked(step, 20, 256, "cosine") for step in range(20)]
    table = [256, 253, 249, 244, 237, 229, 219, 208, 195, 182, 167, 151, 134, 117, 98, 80, 60, 41, 21, 1]
    assert counts == table and addp.still_masked(7, 12, 256, "cosine") == 128, "rounding does not lift whole numbers"


def looks_of(made: Addp, monkeypatch, *arguments) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Codes before each step, `num_codes` where masked, and the final codes."""
    looks, original = [], addp.guided_logits

    def look(network, images, labels, codes, mask, guidance):
        looks.append(codes.masked_fill(mask, made.num_codes))
        return original(network, images, labels, codes, mask, guidance)

    monkeypatch.setattr(addp, "guided_logits", look)
    return looks, addp.sample(made, *arguments)


def test_a_code_once_kept_is_never_masked_again(monkeypatch):
    made = model()
    looks, final = looks_of(made, monkeypatch, torch.arange(8) % 4, setting(steps=6), 0)
    for before, after in itertools.pairwise([*looks, final]):
        known = before != made.num_codes
        assert torch.equal(before[known], after[known])
    assert [int((look == 20).sum(1).max()) for look in looks] == [16, 16, 14, 12, 8, 5] and final.max() < 20


def test_inpainting_keeps_known_codes_and_draws_the_others(monkeypatch):
    made, (_, codes) = model(), batch(6)
    known = codes.clone()
    for row, count in enumerate((16, 0, 5, 5, 1, 9)):  # of one batch, from all to none
        known[row, torch.randperm(16, generator=torch.Generator().manual_seed(row))[:count]] = made.num_codes
    before = known.clone()
    drawn = addp.fill(made, torch.arange(6) % 4, known, setting(steps=4), 0)
    assert torch.equal(drawn[before != 20], codes[before != 20]) and drawn.max() < 20
    assert torch.equal(known, before) and torch.equal(drawn[1], codes[1])
    none = addp.sample(made, torch.arange(6) % 4, setting(steps=4), 0)
    assert torch.equal(drawn[0], none[0]), "with nothing known it is plain sampling"
    alone = addp.fill(made, torch.tensor([2]), before[2:3], setting(steps=4), 0, first=2)
    assert torch.equal(alone[0], drawn[2]), "a row does not depend on its neighbors"


def test_one_step_at_vanishing_temperature_is_the_argmax_as_is_the_likeliest_code():
    made, labels = model(), torch.arange(8) % 4
    all_masked = torch.ones(8, 16, dtype=torch.bool)
    logits = made.network(torch.zeros(8, 3, 16, 16), labels, torch.zeros(8, 16, dtype=torch.long), all_masked)
    for changes in ({"temperature": 1e-6}, {"top_k": 1}, {"top_p": 1e-9}):
        drawn = addp.sample(made, labels, setting(steps=1, **changes), seed=0)
        assert torch.equal(drawn, logits.argmax(-1).view(8, 16))
    cold = [addp.sample(made, labels, setting(**one), seed=0) for one in ({"temperature": 1e-6}, {"top_k": 1})]
    assert torch.equal(*cold)


def test_one_step_draws_from_the_networks_probabilities():
    made, labels = model(codes=5), torch.zeros(4000, dtype=torch.long)
    all_masked = torch.ones(1, 16, dtype=torch.bool)
    logits = made.network(torch.zeros(1, 3, 16, 16), labels[:1], torch.zeros(1, 16, dtype=torch.long), all_masked)
    drawn = addp.sample(made, labels, setting(steps=1), seed=0)
    found = F.one_hot(drawn, 5).float().mean(0)
    chi_square = (4000 * (found - logits.softmax(-1)) ** 2 / logits.softmax(-1)).sum(1)
    assert float(chi_square.sum()) < 16 * 4 + 5 * math.sqrt(2 * 16 * 4)


@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_one_class_alone_and_in_a_batch_of_32_give_the_same_codes(guidance):
    made, labels, how = model(), torch.arange(32) % 3, setting(steps=5, guidance=guidance)
    whole = addp.sample(made, labels, how, seed=5)
    alone = [addp.sample(made, labels[i : i + 1], how, seed=5, first=i) for i in range(32)]
    assert torch.equal(whole, torch.cat(alone))
    assert not torch.equal(whole, addp.sample(made, labels, how, seed=6))


def test_guidance_zero_is_the_unconditional_model_and_the_class_changes_codes():
    made, labels = model(), torch.arange(6) % 3
    none = torch.full((6,), made.num_classes)
    guided = addp.sample(made, labels, setting(guidance=0.0), seed=0)
    assert torch.equal(guided, addp.sample(made, none, setting(), seed=0))
    assert not torch.equal(guided, addp.sample(made, labels, setting(), seed=0))


def test_without_classes_nothing_is_computed_twice(monkeypatch):
    made, seen, original = model(classes=0), [], AddpNetwork.logits
    monkeypatch.setattr(AddpNetwork, "logits", lambda *a: seen.append(len(a[1])) or original(*a))
    codes = addp.sample(made, torch.zeros(5, dtype=torch.long), setting(steps=3, guidance=1.5), seed=0)
    assert seen == [5, 5, 5] and codes.shape == (5, 16)


def test_sampling_in_bf16_repeats_itself_and_changes_no_weight():
    made, labels, how = model(), torch.arange(6) % 3, setting(precision="bf16", guidance=1.5)
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    assert torch.equal(addp.sample(made, labels, how, seed=0), addp.sample(made, labels, how, seed=0))
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.state_dict().items())


def test_several_codebooks_read_the_same_patches():
    made = model(codebooks=2)
    features = made.network.features(torch.randn(2, 3, 16, 16))
    assert features.shape == (2, 32, 32) and torch.equal(features[:, :16], features[:, 16:])
    codes = addp.sample(made, torch.tensor([0, 1]), setting(steps=3), seed=0)
    assert codes.shape == (2, 32) and codes.max() < 20
