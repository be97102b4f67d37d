"""Sampling of codes from logits against the definitions: guidance, top-k, top-p, the draw, MaskGIT's schedule.

Run: uv run pytest tests/test_sampling.py
"""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.core import sampling
from stages.generator.guidance import LinearGuidance, PowerCosineGuidance, StepGuidance, guidance_scales


def test_guidance_identity():
    conditional, unconditional = torch.randn(4, 7), torch.randn(4, 7)
    assert torch.equal(sampling.guide(conditional, unconditional, 1.0), conditional)
    assert torch.equal(sampling.guide(conditional, unconditional, 0.0), unconditional)
    further = conditional + 0.5 * (conditional - unconditional)
    torch.testing.assert_close(sampling.guide(conditional, unconditional, 1.5), further)


def test_guidance_schedules():
    rar = guidance_scales(PowerCosineGuidance(schedule="power-cosine", scale=16.0, power=2.75), 256)
    assert [round(rar[place], 2) for place in (0, 64)] == [1.0, 1.02]
    assert [round(rar[place], 1) for place in (128, 192, 255)] == [1.8, 7.4, 16.0]  # RAR's, its model B
    assert guidance_scales(1.5, 3) == [1.5, 1.5, 1.5]
    assert guidance_scales(LinearGuidance(schedule="linear", scale=3.0), 4) == [1.0, 1.5, 2.0, 2.5]
    step = guidance_scales(StepGuidance(schedule="step", scale=1.75, start=0.18), 256)
    assert step == [1.0] * 47 + [1.75] * 209  # GigaTok: from 18 % of the sequence on


@given(st.integers(1, 12), st.integers(0, 1000))
@settings(max_examples=30)
def test_top_k_keeps_exactly_k(k, seed):
    logits = torch.randn(5, 12, generator=torch.Generator().manual_seed(seed)).round(decimals=1)  # with ties
    share = sampling.probabilities(logits, temperature=0.7, top_k=k, top_p=1.0)
    assert (share.gt(0).sum(-1) == k).all()
    torch.testing.assert_close(share.sum(-1), torch.ones(5))


@given(st.floats(0.001, 1), st.integers(0, 1000))
@settings(max_examples=30)
def test_top_p_keeps_the_smallest_set_that_reaches_p(p, seed):
    logits = torch.randn(12, generator=torch.Generator().manual_seed(seed)).double()
    share = sampling.probabilities(logits, temperature=1.0, top_k=0, top_p=p)
    plain = logits.softmax(-1)
    kept = plain[share > 0].sort(descending=True).values
    assert len(kept) >= 1 and kept.sum() >= p - 1e-9 and kept[:-1].sum() < p
    assert kept.min() >= plain[share == 0].max() if len(kept) < 12 else True


def test_one_code_or_vanishing_p_is_argmax():
    logits = torch.randn(50, 9)
    for choice in ({"top_k": 1, "top_p": 1.0}, {"top_k": 0, "top_p": 1e-9}):
        assert torch.equal(sampling.probabilities(logits, temperature=1.0, **choice).argmax(-1), logits.argmax(-1))
        assert (sampling.probabilities(logits, temperature=1.0, **choice).gt(0).sum(-1) == 1).all()


def test_a_draw_never_picks_a_code_of_probability_zero():
    share = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]).expand(5, 5)
    codes = sampling.draw(share, torch.tensor([0.0, 0.2499999, 0.25, 0.9999999, 1.0]))
    assert codes.tolist() == [1, 1, 3, 3, 3]


# --- MaskGIT ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "patches", "counts"),
    [
        ("cosine", 256, [251, 236, 212, 181, 142, 97, 49, 0]),  # MaskGIT
        ("cosine", 256, [253, 247, 236, 221, 203, 181, 155, 128, 97, 66, 33, 0]),  # MAGE, which never comes below 1
        ("linear", 256, [230, 204, 179, 153, 128, 102, 76, 51, 25, 0]),
        ("arccos", 64, [61, 58, 56, 53, 51, 48, 45, 42, 39, 36, 33, 29, 25, 20, 14, 0]),  # ARPG
    ],
)
def test_the_published_step_tables(schedule, patches, counts):
    assert sampling.masked_counts(patches, len(counts), schedule) == counts


def test_arpgs_groups_for_256_codes_in_64_steps():
    groups = [a - b for a, b in itertools.pairwise([256, *sampling.masked_counts(256, 64, "arccos")])]
    assert groups[:6] == [3, 3, 2, 3, 2, 3] and groups[-4:] == [7, 10, 12, 28] and sum(groups) == 256


@given(st.integers(1, 300), st.integers(1, 40), st.sampled_from(["cosine", "linear", "arccos"]))
def test_masking_falls_to_one_and_ends_at_the_last_step(patches, steps, schedule):
    before = patches
    for step in range(steps):
        after = sampling.still_masked(step, steps, before, patches, schedule)
        assert after == 0 if step == steps - 1 else (1 <= after <= max(1, before - 1))
        before = after
    assert before == 0


def test_training_masks_hide_one_to_all_positions_and_two_over_pi_on_average():
    counts = sampling.training_counts(torch.linspace(0, 1, 100_001), 256, "cosine")
    assert counts.min() == 1 and counts.max() == 256
    assert float(counts.float().mean()) / 256 == pytest.approx(2 / math.pi, abs=0.003)
    mask = sampling.random_mask(counts[::1000], 256, torch.Generator().manual_seed(0))
    assert torch.equal(mask.sum(1), counts[::1000])


def test_mages_masks_hide_half_to_all_positions_by_a_normal_distribution():
    counts = sampling.training_counts(torch.linspace(0, 1, 100_001), 256, "truncated-normal")
    ratio = torch.linspace(0.5, 1, 10_001, dtype=torch.float64)
    density = (-(((ratio - 0.55) / 0.25) ** 2) / 2).exp()
    assert counts.min() == 128 and counts.max() == 256
    assert float(counts.float().mean()) / 256 == pytest.approx(
        float((ratio * density).sum() / density.sum()), abs=0.003
    )
    assert float((counts <= 192).float().mean()) == pytest.approx(
        float(density[:5001].sum() / density.sum()), abs=0.001
    )


@pytest.mark.parametrize("choice_temperature", [0.0, 3.0])
def test_the_least_sure_positions_are_masked_again(choice_temperature):
    uniform, looks = torch.rand(20, 4, 2, 9, generator=torch.Generator().manual_seed(0)), []
    share = torch.linspace(0.5, 0.9, 9)  # of code 0, position by position; that of code 1 is the rest

    def logits_of(codes, unknown):
        looks.append(codes.clone())
        return torch.stack([share, 1 - share], 1).log().expand(20, 9, 2)[unknown]

    setting = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "choice_temperature": choice_temperature}
    final = sampling.sample_maskgit(logits_of, uniform, num_codes=2, **setting)
    for step, (before, after) in enumerate(itertools.pairwise([*looks, final])):
        filled = torch.where(before == 2, (uniform[:, step, 0] >= share).long(), before)
        gumbel = -(-uniform[:, step, 1].log()).log()
        sure = torch.where(filled == 0, share, 1 - share).log() + choice_temperature * (1 - (step + 1) / 4) * gumbel
        sure = sure.masked_fill(before != 2, torch.inf)
        kept = sure.argsort(1).argsort(1) >= (after == 2).sum(1, keepdim=True)
        assert torch.equal(after, filled.masked_fill(~kept, 2))
    assert [int((look == 2).sum(1).max()) for look in looks] == [9, 8, 6, 3] and (final < 2).all()
