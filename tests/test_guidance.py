"""Guidance schedules and known codes in both samplers, against sampling that computes everything anew at each position.

Run: uv run pytest tests/test_guidance.py
"""

import pytest
import torch
from test_generator import AR, MASKED, network

from stages.core import UserError, sampling
from stages.core.params import load
from stages.generator import ar, masked
from stages.generator.guidance import guidance_scales
from stages.generator.params import KINDS, Sampling
from stages.generator.transformer import TokenTransformer, uniforms

SCHEDULES = [
    1.0,
    2.0,
    {"schedule": "linear", "scale": 3.0},
    {"schedule": "power-cosine", "scale": 6.0, "power": 2.0},
    {"schedule": "step", "scale": 2.5, "start": 0.4},
]
LABELS = torch.tensor([0, 2, 1, 3, 0])


def with_guidance(settings, guidance):
    """The settings with another guidance, checked."""
    return type(settings)(**{**settings.model_dump(), "guidance": guidance})


def uncached(model, labels, settings, seed, known):
    """Autoregressive sampling that runs both models over the whole sequence for every code."""
    noise, scales = uniforms(seed, 0, len(labels), (9,), labels.device), guidance_scales(settings.guidance, 9)
    codes = torch.cat([known, torch.zeros(len(labels), 9 - known.shape[1], dtype=torch.long)], 1)
    for place in range(known.shape[1], 9):
        both = [model(given, codes)[:, place] for given in (labels, torch.full_like(labels, model.num_classes))]
        share = sampling.probabilities(
            sampling.guide(*both, scales[place]), temperature=1.0, top_k=0, top_p=settings.top_p
        )
        codes[:, place] = sampling.draw(share, noise[:, place])
    return codes


@pytest.mark.parametrize("guidance", SCHEDULES)
@pytest.mark.parametrize("known", [0, 1, 5, 9])
def test_ar_draws_what_uncached_sampling_draws(guidance, known):
    model, settings = network(True), with_guidance(AR, guidance)
    first = torch.randint(6, (5, known), generator=torch.Generator().manual_seed(1))
    given = torch.cat([first, torch.full((5, 9 - known), 6)], 1)
    drawn = ar.fill(model, LABELS, given, settings, seed=3)
    assert torch.equal(drawn, uncached(model, LABELS, settings, 3, first)) and torch.equal(drawn[:, :known], first)
    if not known:
        assert torch.equal(drawn, ar.sample(model, LABELS, settings, seed=3))


@pytest.mark.parametrize("guidance", SCHEDULES)
def test_masked_guides_each_step_by_its_scale(guidance, monkeypatch):
    model, seen, original = network(False), [], masked.guided_logits
    monkeypatch.setattr(masked, "guided_logits", lambda *a: (seen.append(a[4]), original(*a))[1])
    masked.sample(model, LABELS, with_guidance(MASKED, guidance), seed=0)
    expected = {1.0: [1.0] * 4, 2.0: [2.0] * 4, "linear": [1.0, 1.5, 2.0, 2.5], "step": [1.0, 1.0, 2.5, 2.5]}
    expected["power-cosine"] = [1 + 5 * (1 - cosine) / 2 for cosine in (1, 0.98078528, 0.70710678, -0.19509032)]
    name = guidance["schedule"] if isinstance(guidance, dict) else guidance
    assert seen == pytest.approx(expected[name])


@pytest.mark.parametrize(("kind", "settings"), [(ar, AR), (masked, MASKED)])
@pytest.mark.parametrize("guidance", SCHEDULES)
def test_with_any_schedule_a_sample_does_not_depend_on_its_batch(kind, settings, guidance):
    model, settings = network(kind is ar), with_guidance(settings, guidance)
    whole = kind.sample(model, LABELS, settings, seed=5)
    parts = [kind.sample(model, LABELS[i : i + 1], settings, seed=5, first=i) for i in range(5)]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize(("kind", "settings", "plain"), [(ar, AR, 4), (masked, MASKED, 2)])
def test_before_a_step_of_guidance_nothing_unconditional_runs(kind, settings, plain, monkeypatch):
    model, rows = network(kind is ar), []
    monkeypatch.setattr(
        model, "_run", lambda x, *rest: (rows.append(tuple(x.shape[:2])), TokenTransformer._run(model, x, *rest))[1]
    )
    kind.sample(model, LABELS, with_guidance(settings, SCHEDULES[-1]), seed=0)
    if kind is masked:
        assert [batch for batch, _ in rows] == [5, 5, 10, 10]
    else:  # then the unconditional half reads the class and three codes at once
        assert rows == [(5, 1)] * plain + [(5, 4)] + [(10, 1)] * 5


def test_masked_keeps_known_codes_and_fills_the_rest_by_the_schedule_of_the_unknown():
    model, rng = network(False), torch.Generator().manual_seed(0)
    codes = torch.randint(6, (5, 9), generator=rng)
    unknown = sampling.random_mask(torch.tensor([1, 9, 4, 0, 6]), 9, rng)
    given = codes.masked_fill(unknown, 6)
    drawn = masked.fill(model, LABELS, given, MASKED, seed=2)
    assert torch.equal(drawn[~unknown], codes[~unknown]) and (drawn < 6).all()
    assert torch.equal(drawn[1], masked.sample(model, LABELS, MASKED, seed=2)[1])  # of which nothing is known
    alone = [masked.fill(model, LABELS[i : i + 1], given[i : i + 1], MASKED, seed=2, first=i) for i in range(5)]
    assert torch.equal(drawn, torch.cat(alone))
    assert sampling.counts_of(unknown, 4, "cosine").tolist() == [
        [1, 1, 1, 0], [8, 6, 3, 0], [3, 2, 1, 0], [0, 0, 0, 0], [5, 4, 2, 0]
    ]  # fmt: skip


def test_known_codes_condition_the_others():
    model, given, drawn = network(False), torch.full((50, 9), 6), []
    for code in (0, 5):
        given[:, 4] = code
        drawn.append(masked.fill(model, torch.zeros(50, dtype=torch.long), given, MASKED, seed=0)[:, 3])
    assert not torch.equal(*drawn)


def test_ar_refuses_to_draw_around_known_codes():
    given = torch.full((2, 9), 6)
    given[:, 4] = 0
    for bad in (given, torch.tensor([[0] * 4 + [6] * 5, [0] * 5 + [6] * 4])):
        with pytest.raises(UserError, match="draws codes from the upper left .* use one of kind masked"):
            ar.fill(network(True), LABELS[:2], bad, AR, seed=0)


@pytest.mark.parametrize(
    ("guidance", "said"),
    [
        ("-1.0", r"section.guidance = -1.0: input should be greater"),
        ("{schedule: linear, scale: 2.0, power: 3.0}", r"section.guidance.power = 3.0: unknown key; section.guid"),
        ("{schedule: step, scale: 2.0}", r"section.guidance.start: missing"),
        ("{schedule: step, scale: 2.0, start: 2.0}", r"section.guidance.start = 2.0: input should be less"),
        ("{schedule: sine, scale: 2.0}", r"section.guidance = .*expected tags: 'constant', 'linear', 'power"),
        ("{scale: 2.0}", r"section.guidance = .*: input should be a valid number"),
    ],
)  # fmt: skip
def test_impossible_guidance_is_named(tmp_path, guidance, said):
    path = tmp_path / "params.yaml"
    path.write_text(f"section: {{temperature: 1.0, top_k: 0, top_p: 1.0, precision: fp32, guidance: {guidance}}}")
    with pytest.raises(UserError, match=said):
        load("section", Sampling, path)


HALF = {"schedule": "step", "scale": 2.0, "start": 0.5}


@pytest.mark.parametrize(("kind", "guidance", "expected"), [
    ("ar", 1.0, 1), ("ar", 2.0, 2), ("ar", HALF, 1.5), ("masked", 1.0, 8), ("masked", HALF, 12),
    ("ar_bits", 1.0, 1), ("ar_bits", HALF, 2), ("parallel_ar", 1.0, 2), ("parallel_ar", HALF, 4),
])  # fmt: skip
def test_passes_of_a_sequence_through_the_network(kind, guidance, expected):
    assert with_guidance(KINDS[kind].plain, guidance).passes(16) == expected
