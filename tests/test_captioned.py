"""Generators conditioned by captions: the prefix, its padding, the learned null caption, the cache, guidance.

Run: uv run pytest tests/test_captioned.py
"""

import pytest
import torch
from test_generator import AR, MASKED

from stages.core.sampling import guide
from stages.core.transformer import for_sampling
from stages.generator import ar, masked
from stages.generator.ar import NextLogits
from stages.generator.guidance import StepGuidance
from stages.generator.places import LocalMixing, rotary_tables
from stages.generator.prefix import CaptionPrefix, attention_mask
from stages.generator.transformer import TokenTransformer

WORDS, VOCABULARY, FEATURES = 5, 12, 4
SHAPES = {
    "vocabulary": {"length": WORDS, "vocabulary": VOCABULARY},
    "features": {"length": WORDS, "features": FEATURES},
}
every_shape = pytest.mark.parametrize("shape", SHAPES)
every_kind = pytest.mark.parametrize("kind", [ar, masked])


def network(kind, shape: str, **options) -> TokenTransformer:
    """A small random model; larger weights, so that its logits really differ."""
    torch.manual_seed(0)
    sizes = {"num_codes": 6, "num_classes": 0, "num_patches": 9, "grid": 3, "dim": 16, "depth": 2, "heads": 2}
    model = TokenTransformer(**sizes, dropout=0.0, causal=kind is ar, caption=SHAPES[shape], **options)
    with torch.no_grad():
        for mixing in model.mixing:
            torch.nn.init.normal_(mixing.weight, std=0.1)
        for parameter in model.parameters():
            parameter *= 10 if parameter.ndim > 1 else 1
        model.prefix.null *= 30
    return model.eval().requires_grad_(False)


def captions(shape: str, lengths: list[int], padding: float = 0) -> torch.Tensor:
    """Random captions of these lengths; `padding` stands in the features of padded positions."""
    rng = torch.Generator().manual_seed(7)
    if shape == "vocabulary":
        given = torch.randint(1, VOCABULARY, (len(lengths), WORDS), generator=rng)
    else:
        given = torch.cat(
            [torch.randn(len(lengths), WORDS, FEATURES, generator=rng), torch.ones(len(lengths), WORDS, 1)], 2
        )
    for row, length in enumerate(lengths):
        given[row, : WORDS - length] = 0
        if shape == "features":
            given[row, : WORDS - length, :-1] = padding
    return given


CODES = torch.randint(6, (4, 9), generator=torch.Generator().manual_seed(1))


@every_shape
@every_kind
def test_logits_depend_on_the_caption_at_every_position_and_on_codes_before_alone(kind, shape):
    model, given = network(kind, shape), captions(shape, [1, 3, 5, 0])
    logits = model(given, CODES)
    assert logits.shape == (4, 9, 6) and logits.isfinite().all()
    other = given.clone()
    other[:3, -1] = captions(shape, [5, 5, 5])[:, 0]
    changed = (model(other, CODES) - logits).abs().amax(-1) > 1e-6
    assert changed[:3].all() and not changed[3].any()
    later = CODES.clone()
    later[:, 4:] = (later[:, 4:] + 1) % 6
    if kind is ar:
        assert torch.equal(model(given, later)[:, :5], logits[:, :5])


@every_shape
@every_kind
@pytest.mark.parametrize("padding", [3.0, -1e30, float("nan"), float("inf")])
def test_what_stands_in_padding_changes_nothing(kind, shape, padding):
    model = network(kind, shape)
    lengths = [1, 3, 5, 0]
    plain = model(captions(shape, lengths), CODES)
    assert torch.equal(model(captions(shape, lengths, padding), CODES), plain)
    with torch.no_grad():  # the embedding of the padding itself, and the positions of padded rows
        if shape == "vocabulary":
            model.prefix.embed.weight[0] = 100.0
        model.embed_position[: WORDS - 1] += torch.tensor([[5.0], [5.0], [0.0], [0.0]])  # rows 0 and 1 pad those
    torch.testing.assert_close(model(captions(shape, [1, 3, 2, 0]), CODES)[:2], plain[:2])


@every_shape
@every_kind
def test_a_dropped_caption_is_the_learned_null_caption_whatever_its_words_were(kind, shape):
    model = network(kind, shape)
    null = model.null(4)
    assert null.shape == captions(shape, [2] * 4).shape and null.dtype == captions(shape, [2] * 4).dtype
    logits = model(null, CODES)
    assert logits.isfinite().all() and torch.equal(model(captions(shape, [0] * 4), CODES), logits)
    model.requires_grad_(True)
    model(null, CODES).sum().backward()
    assert model.prefix.null.grad.abs().max() > 0, "it is learned"
    with torch.no_grad():
        model.prefix.null += 1
        full = captions(shape, [1, 2, 3, 4])
        assert not torch.equal(model(null, CODES), logits)
        before = model(full, CODES)
        model.prefix.null += 1
        assert torch.equal(model(full, CODES), before), "other captions do not see it"


@pytest.mark.parametrize("causal", [True, False])
def test_no_row_of_attention_is_empty_and_no_column_of_padding_is_seen_by_others(causal):
    padded = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    mask = attention_mask(padded, 5, causal)[:, 0]
    assert mask.any(-1).all()
    for row in range(3):
        for at in range(5):
            for seen in range(5):
                hidden = (seen < 3 and bool(padded[row, seen])) or (causal and seen > at)
                assert bool(mask[row, at, seen]) == (at == seen or not hidden)


def test_a_prefix_of_padding_alone_is_finite():
    prefix = CaptionPrefix(8, **SHAPES["vocabulary"])
    torch.nn.init.zeros_(prefix.null)
    x, padded = prefix(torch.zeros(2, WORDS, dtype=torch.int64))
    assert x.isfinite().all() and padded.sum(1).tolist() == [WORDS - 1] * 2
    whole = attention_mask(torch.ones(2, WORDS, dtype=torch.bool), WORDS + 3, True)
    mixed = torch.nn.functional.scaled_dot_product_attention(*torch.randn(3, 2, 1, WORDS + 3, 4), attn_mask=whole)
    assert mixed.isfinite().all()


OPTIONS = {"plain": {}, "all": {"positions": "both", "local": 3, "kv_heads": 1}, "rotary": {"positions": "rotary"}}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


@every_shape
@every_option
def test_cached_logits_equal_the_uncached_forward(shape, options):
    model, given = network(ar, shape, **options), captions(shape, [0, 1, 3, 5])
    whole, cache = model(given, CODES), model.new_cache(4)
    for position in range(9):
        newest = CODES[:, position - 1] if position else given
        torch.testing.assert_close(model.next_logits(newest, position, cache), whole[:, position], atol=1e-4, rtol=1e-4)


@every_shape
@every_option
def test_a_half_that_joins_later_gives_the_logits_of_one_that_ran_from_the_start(shape, options):
    model, given = network(ar, shape, **options), captions(shape, [0, 1, 3, 5])
    late = AR.model_copy(update={"guidance": StepGuidance(schedule="step", scale=3.0, start=0.5)})
    conditional, unconditional = model(given, CODES), model(model.null(4), CODES)
    for known in (0, 2, 7):
        logits = NextLogits(model, given, late)
        for position in range(known, 9):
            found = logits(CODES[:, :position])
            expected = guide(conditional[:, position], unconditional[:, position], 1.0 if position < 5 else 3.0)
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@every_shape
@every_kind
def test_known_codes_stay_and_others_are_drawn_by_caption(kind, shape):
    model, setting = network(kind, shape), (AR if kind is ar else MASKED).model_copy(update={"guidance": 2.0})
    given, known = captions(shape, [0, 1, 3, 5]), CODES.clone()
    known[:, 3:] = 6
    drawn = kind.fill(model, given, known, setting, seed=2)
    assert torch.equal(drawn[:, :3], CODES[:, :3]) and (drawn < 6).all()
    assert torch.equal(drawn[2:3], kind.fill(model, given[2:3], known[2:3], setting, seed=2, first=2))
    assert torch.equal(kind.fill(model, given, CODES, setting, seed=2), CODES)
    assert not torch.equal(drawn, kind.fill(model, given.flip(0), known, setting, seed=2)), "the caption matters"


@pytest.mark.parametrize("causal", [True, False])
def test_positions_and_mixing_of_codes_are_those_that_follow_a_class(causal):
    short, long = (rotary_tables(3, 9, 8, causal, before) for before in (1, WORDS))
    assert torch.equal(long[:, :, WORDS - 1 :], short) and torch.equal(long[:, 0, : WORDS - 1], torch.ones(2, 4, 8))
    one, many = (LocalMixing(4, 3, 3, 9, causal, before).requires_grad_(False) for before in (1, WORDS))
    many.weight.copy_(one.weight.normal_())
    x = torch.randn(2, WORDS + 9 - causal, 4)
    mixed = many(x)
    assert torch.equal(mixed[:, : WORDS - causal], x[:, : WORDS - causal]), "the prefix stays"
    torch.testing.assert_close(mixed[:, WORDS - 1 :], one(x[:, WORDS - 1 :]))


@every_shape
@every_kind
def test_packed_networks_give_the_same_logits(kind, shape):
    model, given = network(kind, shape), captions(shape, [0, 1, 3, 5])
    torch.testing.assert_close(for_sampling(model, 36)(given, CODES), model(given, CODES), atol=1e-4, rtol=1e-4)


@every_shape
@every_kind
def test_one_caption_alone_and_in_a_batch_gives_the_same_codes(kind, shape):
    model, setting = network(kind, shape), (AR if kind is ar else MASKED).model_copy(update={"guidance": 1.5})
    given = captions(shape, [0, 1, 3, 5, 2, 4, 5, 1] * 4)
    whole = kind.sample(model, given, setting, seed=5)
    assert torch.equal(whole[9:10], kind.sample(model, given[9:10], setting, seed=5, first=9))
    assert (whole < 6).all() and not torch.equal(whole, kind.sample(model, given, setting, seed=6))


@every_shape
@every_kind
def test_guidance_zero_is_the_unconditional_model_and_runs_as_one_batch(kind, shape, monkeypatch):
    model, setting = network(kind, shape), AR if kind is ar else MASKED
    given, seen = captions(shape, [1, 2, 3, 4, 5, 1]), []
    none = kind.sample(model, model.null(6), setting, seed=0)
    run = model._run
    monkeypatch.setattr(model, "_run", lambda x, *rest: (seen.append(len(x)), run(x, *rest))[1])
    assert torch.equal(kind.sample(model, given, setting.model_copy(update={"guidance": 0.0}), seed=0), none)
    assert {*seen} == {12}


@every_shape
@every_kind
def test_it_overfits_captions_and_draws_what_each_of_them_says(kind, shape):
    model = network(kind, shape).train().requires_grad_(True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter /= 10 if parameter.ndim > 1 else 1
    given = captions(shape, [1, 3, 5, 0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for step in range(100 if kind is ar else 250):
        loss = kind.loss(model, given, CODES, torch.Generator().manual_seed(step), 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().requires_grad_(False)
    assert float(kind.nats(model, given, CODES, torch.Generator().manual_seed(0)).mean()) / 9 < 0.1
    setting = (AR if kind is ar else MASKED).model_copy(update={"top_k": 1})
    assert torch.equal(kind.sample(model, given, setting, 0), CODES)


def test_without_captions_there_are_no_other_weights():
    sizes = {"num_codes": 6, "num_classes": 3, "num_patches": 9, "grid": 3, "dim": 16, "depth": 1, "heads": 2}
    names = {*TokenTransformer(**sizes, dropout=0.0, causal=True).state_dict()}
    assert not any("prefix" in name for name in names) and "embed_class.weight" in names
