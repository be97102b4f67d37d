"""The masked-bit head against oracles: enumeration of all codes, allocations, a histogram, impossible codes.

Run: uv run pytest tests/test_ar_bits.py
"""

import itertools
import shutil
from pathlib import Path

import pytest
import torch
import toy as toys
from scipy.stats import chisquare
from torch.utils.flop_counter import FlopCounterMode

from stages.core import UserError
from stages.core.transformer import for_sampling
from stages.cost import Costs
from stages.cost_images import Images
from stages.generator import ar_bits
from stages.generator.ar_bits import allocation, training_masks
from stages.generator.bit_head import MASKED, BitHead, BitTransformer, bits_of, codes_of
from stages.generator.params import KINDS

PLAIN = KINDS["ar_bits"].plain


def network(codes: int = 6, patches: int = 4, **options) -> BitTransformer:
    """A small random model with large weights, so that its logits really differ."""
    torch.manual_seed(0)
    size = {"num_codes": codes, "num_classes": 3, "num_patches": patches, "grid": 2, "dim": 16, "depth": 2, "heads": 2}
    model = BitTransformer(**size, dropout=0.0, causal=True, **options).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(std=0.3)
    return model


def settings(**changes):
    return PLAIN.model_copy(update=changes)


def probabilities_of_codes(model: BitTransformer, labels: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """float64 [B, N, K], given the codes before: bit by bit, always the surest one, whatever its value."""
    states, found = model.states(labels, codes), torch.zeros(*codes.shape, model.num_codes, dtype=torch.float64)
    for row, position, code in itertools.product(range(len(codes)), range(codes.shape[1]), range(model.num_codes)):
        wanted, bits, p = bits_of(torch.tensor(code), model.bits), torch.full((model.bits,), MASKED), 1.0
        for _ in range(model.bits):
            share = model.possible(model.bit_head(states[row, position], bits), bits).softmax(-1)
            surest = max((one for one in range(model.bits) if bits[one] == MASKED), key=lambda one: share[one].max())  # noqa: B023
            p *= float(share[surest, wanted[surest]])
            bits[surest] = wanted[surest]
        found[row, position, code] = p
    return found


def test_bits_are_the_digits_of_the_number_and_of_fsq_levels():
    codes = torch.arange(300)
    assert torch.equal(codes_of(bits_of(codes, 9)), codes)
    assert [str(bin(code))[2:].zfill(9)[::-1] for code in range(300)] == [
        "".join(map(str, row)) for row in bits_of(codes, 9).tolist()
    ]
    levels = torch.stack([codes % 8, codes // 8 % 8, codes // 64], -1)  # of fsq with levels [8, 8, 8]
    digits = bits_of(codes, 9).unflatten(-1, (3, 3)) @ torch.tensor([1, 2, 4])
    assert torch.equal(digits, levels)
    assert int(codes_of(torch.tensor([1, MASKED, 1]))) == 5


@pytest.mark.parametrize(
    ("bits", "steps", "expected"),
    [(16, 4, [4, 4, 4, 4]), (11, 4, [2, 3, 3, 3]), (3, 8, [1, 1, 1]), (5, 1, [5]), (16, [2, 2, 5, 7], [2, 2, 5, 7])],
)
def test_allocations_sum_to_the_bits(bits, steps, expected):
    assert allocation(bits, steps) == expected and sum(expected) == bits


def test_an_allocation_of_another_sum_is_refused():
    with pytest.raises(UserError, match=r"bit_steps = \[2, 2\]: its sum is 4, but these codes have 3 bits"):
        ar_bits.sample(network(), torch.zeros(1, dtype=torch.long), settings(bit_steps=[2, 2]), 0)


def test_training_masks_hide_one_to_all_bits_and_half_on_average():
    mask = training_masks(500, 16, 11, torch.Generator().manual_seed(0))
    counts = mask.sum(-1)
    assert (
        counts.min() >= 1 and counts.max() == 11 and float(counts.float().mean()) / 11 == pytest.approx(0.5, abs=0.01)
    )
    assert float(mask.float().mean((0, 1)).std()) < 0.01, "no bit is masked more often than another"


def test_the_loss_weighs_masked_bits_ten_times_as_much_as_visible_ones():
    model, labels, codes = network(8), torch.tensor([0, 1]), torch.randint(8, (2, 4))
    mask, bits = training_masks(2, 4, 3, torch.Generator().manual_seed(3)), bits_of(codes, 3)
    p = model(labels, codes, bits.masked_fill(mask, MASKED)).softmax(-1).gather(-1, bits[..., None])[..., 0]
    expected = -(p.log() * mask + 0.1 * p.log() * ~mask).sum() / (mask.sum() + 0.1 * (~mask).sum())
    found = ar_bits.loss(model, labels, codes, torch.Generator().manual_seed(3), 0.0)
    torch.testing.assert_close(found, expected)


def test_states_do_not_see_the_code_whose_bits_are_asked_for_nor_later_ones():
    model, codes = network(), torch.randint(6, (1, 4))
    changed = codes.clone()
    changed[0, 2:] = (changed[0, 2:] + 1) % 6
    before, after = (model(torch.tensor([0]), given) for given in (codes, changed))
    assert torch.equal(before[:, :3], after[:, :3]) and not torch.equal(before[:, 3:], after[:, 3:])


def test_probabilities_of_all_codes_sum_to_one():
    model = network()
    total = probabilities_of_codes(model, torch.tensor([1]), torch.randint(6, (1, 4))).sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)


def test_nats_are_the_mean_over_orders_of_the_bits():
    model, labels, codes = network(patches=1), torch.tensor([2]), torch.tensor([[3]])
    states, bits, orders = model.states(labels, codes)[0, 0], bits_of(torch.tensor(3), 3), []
    for order in itertools.permutations(range(3)):
        given, nats = torch.full((3,), MASKED), 0.0
        for one in order:
            share = model.possible(model.bit_head(states, given), given).softmax(-1)
            nats -= float(share[one, bits[one]].log())
            given[one] = bits[one]
        orders.append(nats)
    rng = torch.Generator().manual_seed(0)
    found = ar_bits.nats(model, labels.expand(20_000), codes.expand(20_000, 1), rng)
    assert float(found.mean()) == pytest.approx(sum(orders) / 6, rel=0.02)


def test_samples_follow_the_models_own_probabilities():
    """Chi-square of 36 images of two codes, with one bit per step."""
    model = network(patches=2)
    every, labels = torch.tensor(list(itertools.product(range(6), repeat=2))), torch.zeros(36, dtype=torch.long)
    expected = probabilities_of_codes(model, labels, every).gather(2, every[..., None])[..., 0].prod(1)
    drawn = ar_bits.sample(model, torch.zeros(20_000, dtype=torch.long), settings(bit_steps=3), seed=0)
    found = torch.bincount(drawn @ torch.tensor([6, 1]), minlength=36)
    rare = expected * 20_000 < 5  # too few for the test: one cell
    cells = [torch.cat([one[~rare], one[rare].sum()[None]]) for one in (found.double(), expected * 20_000)]
    assert chisquare(cells[0].numpy(), (cells[1] / cells[1].sum() * 20_000).numpy()).pvalue > 0.01


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_codes_that_do_not_exist_are_never_drawn(steps):
    for codes in (5, 6, 7):
        model = network(codes)
        model.bit_head.out.bias.copy_(torch.tensor([-1.0, 1.0]).repeat(3))  # 1 is likelier
        drawn = ar_bits.sample(model, torch.arange(64) % 4, settings(bit_steps=steps, temperature=1.5), seed=0)
        assert 0 <= drawn.min() and drawn.max() < codes and len(drawn.unique()) > 1


@pytest.mark.parametrize("steps", [1, 3])
def test_vanishing_temperature_is_argmax(steps):
    model, labels = network(), torch.tensor([0, 1, 2, 3])
    cold = ar_bits.sample(model, labels, settings(temperature=1e-6, bit_steps=steps), seed=0)
    assert torch.equal(cold, ar_bits.sample(model, labels, settings(top_k=1, bit_steps=steps), seed=0))


@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_one_image_alone_and_in_a_batch_of_32_has_equal_codes(guidance):
    model, labels = network(40), torch.arange(32) % 4
    whole = ar_bits.sample(model, labels, settings(guidance=guidance, bit_steps=3), seed=5)
    for number in (0, 7, 31):
        alone = ar_bits.sample(model, labels[number : number + 1], settings(guidance=guidance, bit_steps=3), 5, number)
        assert torch.equal(alone[0], whole[number])
    assert not torch.equal(whole, ar_bits.sample(model, labels, settings(guidance=guidance, bit_steps=3), seed=6))


def test_guidance_zero_is_the_unconditional_model():
    model, none = network(), torch.full((6,), 3)
    guided = ar_bits.sample(model, torch.arange(6) % 3, settings(guidance=0.0), seed=0)
    assert torch.equal(guided, ar_bits.sample(model, none, settings(), seed=0))


def test_the_twin_for_sampling_in_bf16_is_near():
    model, codes = network(300), torch.randint(300, (2, 4))
    with torch.autocast("cpu", torch.bfloat16):
        near = for_sampling(model, 8)(torch.tensor([0, 3]), codes)
    exact = model(torch.tensor([0, 3]), codes)
    assert near.dtype == torch.float32 and 0 < float((near - exact).std() / exact.std()) < 0.05


def test_it_overfits_a_batch():
    model = network().train().requires_grad_(True)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    labels, codes = torch.arange(4) % 3, torch.randint(6, (4, 4), generator=torch.Generator().manual_seed(0))
    labels[3] = model.num_classes
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for step in range(150):
        loss = ar_bits.loss(model, labels, codes, torch.Generator().manual_seed(step), 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().requires_grad_(False)
    assert float(ar_bits.nats(model, labels, codes, torch.Generator().manual_seed(0)).mean()) / 4 < 0.2
    assert torch.equal(ar_bits.sample(model, labels, settings(top_k=1), 0), codes)


def test_semtok_cost_counts_every_step_of_the_bits(toy, workdir):
    shutil.copytree(toy / "weights", workdir / "weights")
    (workdir / "pictures").mkdir()
    found = {}
    for bit_steps in ([3], [1, 2]):  # of 8 codes
        changes = {"generators": ["ar_bits"], "samples": {"ar_bits": {"bit_steps": bit_steps, "guidance": 1.0}}}
        path = toys.write_params(Path(), changes)
        found[len(bit_steps)] = dict(Costs(path, Images(30, 10, 4)).stages())["samples@kmeans-ar_bits"].flops
    params = toys.YAML(typ="safe").load(path)
    draws, dim, places = params["samples"]["draws"], params["generator"]["model"]["dim"], 16
    with FlopCounterMode(display=False) as counter:
        BitHead(dim, 3)(torch.zeros(places, dim), torch.zeros(places, 3, dtype=torch.int64))
    samples = 4 * draws["per_class"] * len(draws["seeds"])
    assert found[2] - found[1] == samples * counter.get_total_flops() > 0
