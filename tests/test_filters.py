"""Guidance, top-k, top-p and the draw of a code against their definitions.

Run: uv run pytest tests/test_filters.py
"""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.core import filters


def test_guidance_identity():
    conditional, unconditional = torch.randn(4, 7), torch.randn(4, 7)
    assert torch.equal(filters.guide(conditional, unconditional, 1.0), conditional)
    assert torch.equal(filters.guide(conditional, unconditional, 0.0), unconditional)
    further = conditional + 0.5 * (conditional - unconditional)
    torch.testing.assert_close(filters.guide(conditional, unconditional, 1.5), further)


@given(st.integers(1, 12), st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_top_k_keeps_exactly_k(k, seed):
    logits = torch.randn(5, 12, generator=torch.Generator().manual_seed(seed)).round(decimals=1)  # with ties
    share = filters.probabilities(logits, temperature=0.7, top_k=k, top_p=1.0)
    assert (share.gt(0).sum(-1) == k).all()
    torch.testing.assert_close(share.sum(-1), torch.ones(5))


@given(st.floats(0.001, 1), st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_top_p_keeps_the_smallest_set_that_reaches_p(p, seed):
    logits = torch.randn(12, generator=torch.Generator().manual_seed(seed)).double()
    share = filters.probabilities(logits, temperature=1.0, top_k=0, top_p=p)
    plain = logits.softmax(-1)
    kept = plain[share > 0].sort(descending=True).values
    assert len(kept) >= 1 and kept.sum() >= p - 1e-9 and kept[:-1].sum() < p
    assert kept.min() >= plain[share == 0].max() if len(kept) < 12 else True


def test_one_code_or_vanishing_p_is_argmax():
    logits = torch.randn(50, 9)
    for choice in ({"top_k": 1, "top_p": 1.0}, {"top_k": 0, "top_p": 1e-9}):
        assert torch.equal(filters.probabilities(logits, temperature=1.0, **choice).argmax(-1), logits.argmax(-1))
        assert (filters.probabilities(logits, temperature=1.0, **choice).gt(0).sum(-1) == 1).all()


def test_a_draw_never_picks_a_code_of_probability_zero():
    share = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]).expand(5, 5)
    codes = filters.draw(share, torch.tensor([0.0, 0.2499999, 0.25, 0.9999999, 1.0]))
    assert codes.tolist() == [1, 1, 3, 3, 3]
