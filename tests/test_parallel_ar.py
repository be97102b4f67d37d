"""Generation in a random order and in groups against oracles: teacher forcing, schedules, brute force, a histogram.

Run: uv run pytest tests/test_parallel_ar.py
"""

import itertools

import pytest
import torch
from scipy.stats import chisquare

from stages.generator import parallel_ar
from stages.generator.parallel_ar import draw_groups, group_sizes
from stages.generator.params import KINDS
from stages.generator.random_order import RandomOrderTransformer

PLAIN = KINDS["parallel_ar"].plain
OPTIONS = {
    "plain": {},
    "rotary": {"positions": "rotary"},
    "all": {"positions": "both", "kv_heads": 1, "norm": "rmsnorm", "mlp": "swiglu", "qk_norm": True},
}


def network(codes: int = 6, patches: int = 9, classes: int = 3, **options) -> RandomOrderTransformer:
    """A small random model with large weights, so that its logits really differ."""
    torch.manual_seed(0)
    size = {"num_codes": codes, "num_classes": classes, "num_patches": patches, "grid": 3, "dim": 16, "depth": 2}
    model = RandomOrderTransformer(**size, heads=2, dropout=0.0, **options).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(std=0.4)
    return model


def orders(rows: int, patches: int = 9) -> torch.Tensor:
    return parallel_ar.random_orders(rows, patches, torch.Generator().manual_seed(1))


# --- the network ------------------------------------------------------------------------------------------------------


def cached_logits(model, labels, codes, order, sizes: list[int]) -> torch.Tensor:
    """Logits [B, N, K] in the order, of groups whose codes are given once they are predicted."""
    cache, held, start, found = model.new_cache(len(labels)), order[:, :0], 0, []
    for begin, end in itertools.pairwise(itertools.accumulate(sizes, initial=0)):
        asked = order[:, begin:end]
        found.append(model.next_logits(labels, codes.gather(1, held), held, asked, cache, start))
        held, start = asked, 1 + begin
    return torch.cat(found, 1)


def forced_logits(model, labels, codes, order, sizes: list[int]) -> torch.Tensor:
    """The same without a cache, code by code: the training's forward, with each code moved to its group's beginning."""
    found = []
    for begin, end in itertools.pairwise(itertools.accumulate(sizes, initial=0)):
        for number in range(begin, end):
            rest = [other for other in range(begin, 9) if other != number]
            moved = order[:, [*range(begin), number, *rest]]
            found.append(model(labels, codes, moved)[:, begin])
    return torch.stack(found, 1)


@pytest.mark.parametrize("sizes", [[1] * 9, [3] * 3, [1, 2, 5, 1], [9]], ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_cached_logits_of_groups_equal_teacher_forced_ones(options, sizes):
    model, labels, codes, order = network(**options), torch.tensor([0, 2, 3]), torch.randint(6, (3, 9)), orders(3)
    found = cached_logits(model, labels, codes, order, sizes)
    torch.testing.assert_close(found, forced_logits(model, labels, codes, order, sizes), atol=1e-4, rtol=1e-4)
    if sizes == [1] * 9:
        torch.testing.assert_close(found, model(labels, codes, order), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_logits_depend_on_codes_before_them_in_the_order_alone(options):
    model, labels, codes, order = network(**options), torch.tensor([1, 3]), torch.randint(6, (2, 9)), orders(2)
    before = model(labels, codes, order)
    for position in range(9):
        place = order[:, position : position + 1]
        after = model(labels, codes.scatter(1, place, (codes.gather(1, place) + 1) % 6), order)
        torch.testing.assert_close(after[:, : position + 1], before[:, : position + 1])
        assert position == 8 or ((after - before)[:, position + 1 :].abs().amax(-1) > 1e-5).all()


def test_queries_of_one_group_never_see_each_other():
    model, labels, codes, order = network(), torch.tensor([0, 2]), torch.randint(6, (2, 9)), orders(2)

    def logits(places: list[int]) -> torch.Tensor:
        cache = model.new_cache(2)
        return model.next_logits(labels, codes.gather(1, order[:, :4]), order[:, :4], order[:, places], cache, 0)

    together = logits([4, 5, 6])
    torch.testing.assert_close(logits([4, 8, 7])[:, 0], together[:, 0])
    torch.testing.assert_close(logits([4])[:, 0], together[:, 0])
    changed = codes.scatter(1, order[:, 5:6], (codes.gather(1, order[:, 5:6]) + 1) % 6)
    before, after = (cached_logits(model, labels, given, order, [4, 3, 2]) for given in (codes, changed))
    assert torch.equal(before[:, :7], after[:, :7]) and not torch.allclose(before[:, 7:], after[:, 7:])


def test_a_model_that_ignores_places_gives_the_codes_of_any_order():
    model = network()
    model.embed_position.zero_()
    codes = torch.full((1, 9), 6)
    drawn = [
        draw_groups(model, torch.tensor([1]), codes.clone(), order[None], torch.zeros(1, 9), 0, argmax(steps=9))
        for order in orders(4)
    ]
    for one, order in zip(drawn, orders(4), strict=True):
        assert torch.equal(one[0, order], drawn[0][0, orders(4)[0]])


def test_local_mixing_does_not_apply():
    size = {"num_codes": 6, "num_classes": 3, "num_patches": 9, "grid": 3, "dim": 16, "depth": 2, "heads": 2}
    models = [parallel_ar.network(**size, dropout=0.0, causal=True, local=side) for side in (0, 5)]
    assert models[0].state_dict().keys() == models[1].state_dict().keys()


# --- schedules --------------------------------------------------------------------------------------------------------

ARCCOS_16, COSINE_16 = [3, 3, 2, 3, 2, *[3] * 6, 4, 4, 5, 6, 14], [1, 1, 1, 2, 3, 3, 4, 4, 5, 5, 5, *[6] * 5]


def test_published_schedules():
    assert group_sizes(64, 16, "arccos") == ARCCOS_16 and group_sizes(64, 16, "cosine") == COSINE_16
    arccos, cosine = group_sizes(256, 64, "arccos"), group_sizes(256, 64, "cosine")
    assert arccos[:6] == [3, 3, 2, 3, 2, 3] and arccos[-4:] == [7, 10, 12, 28]
    assert cosine[:14] == [1] * 13 + [2] and max(cosine) == 7
    assert group_sizes(64, 16, "linear") == [4] * 16


@pytest.mark.parametrize("schedule", ["arccos", "cosine", "linear"])
def test_groups_sum_to_all_codes_and_none_is_empty(schedule):
    for count, steps in itertools.product([0, 1, 2, 5, 9, 64, 250, 256], [1, 2, 3, 8, 16, 63, 64, 100]):
        sizes = group_sizes(count, steps, schedule)
        assert sum(sizes) == count and len(sizes) == min(count, steps) and all(sizes)


# --- sampling ---------------------------------------------------------------------------------------------------------


def settings(**changes):
    return PLAIN.model_copy(update=changes)


def argmax(**changes):
    return settings(top_k=1, **changes)


def test_probabilities_of_all_images_sum_to_one_in_any_order():
    model = network(codes=3, patches=4)
    every = torch.tensor(list(itertools.product(range(3), repeat=4)))
    order = orders(1, 4).expand(len(every), 4)
    logits, targets = model(torch.full((len(every),), 1), every, order), every.gather(1, order)
    nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none").sum(1)
    assert float((-nats).exp().sum()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(("steps", "sizes"), [(3, [1, 1, 1]), (2, [1, 2]), (1, [3])])
def test_samples_follow_the_models_own_probabilities(steps, sizes):
    """The mean over all six orders of the product over groups; chi-square of 27 images."""
    model = network(codes=3, patches=3)
    every = torch.tensor(list(itertools.product(range(3), repeat=3)))
    expected = torch.zeros(27, dtype=torch.float64)
    for order in itertools.permutations(range(3)):
        rows = torch.tensor(order).expand(27, 3)
        logits = cached_logits(model, torch.zeros(27, dtype=torch.long), every, rows, sizes)
        expected += logits.double().log_softmax(-1).gather(2, every.gather(1, rows)[..., None])[..., 0].sum(1).exp() / 6
    drawn = parallel_ar.sample(
        model, torch.zeros(20_000, dtype=torch.long), settings(steps=steps, schedule="cosine"), seed=0
    )
    found = torch.bincount(drawn @ torch.tensor([9, 3, 1]), minlength=27)
    assert chisquare(found.numpy(), (expected / expected.sum() * 20_000).numpy()).pvalue > 0.01


@pytest.mark.parametrize("steps", [1, 4, 9])
def test_vanishing_temperature_is_argmax(steps):
    model, labels = network(), torch.tensor([0, 1, 2, 3])
    cold = parallel_ar.sample(model, labels, settings(temperature=1e-6, steps=steps), seed=0)
    assert torch.equal(cold, parallel_ar.sample(model, labels, argmax(steps=steps), seed=0))


@pytest.mark.parametrize("guidance", [1.0, 1.5])
@pytest.mark.parametrize("steps", [3, 9])
def test_one_image_alone_and_in_a_batch_of_32_has_equal_codes(steps, guidance):
    model, labels = network(codes=40), torch.arange(32) % 4
    setting = settings(steps=steps, guidance=guidance, top_p=0.95)
    whole = parallel_ar.sample(model, labels, setting, seed=5)
    for number in (0, 7, 31):
        alone = parallel_ar.sample(model, labels[number : number + 1], setting, seed=5, first=number)
        assert torch.equal(alone[0], whole[number])
    assert len(whole.unique(dim=0)) == 32 and 0 <= whole.min() and whole.max() < 40
    assert not torch.equal(whole, parallel_ar.sample(model, labels, setting, seed=6))


def test_guidance_zero_is_the_unconditional_model():
    model, none = network(), torch.full((6,), 3)
    guided = parallel_ar.sample(model, torch.arange(6) % 3, settings(guidance=0.0, steps=4), seed=0)
    assert torch.equal(guided, parallel_ar.sample(model, none, settings(steps=4), seed=0))


def test_known_codes_stay_and_others_are_drawn_given_them():
    model, labels = network(), torch.arange(8) % 4
    known = torch.randint(6, (8, 9), generator=torch.Generator().manual_seed(0))
    known[torch.rand(8, 9, generator=torch.Generator().manual_seed(1)) < 0.5] = 6
    known[6], known[7] = 6, 2
    filled = parallel_ar.fill(model, labels, known, settings(steps=3), seed=0)
    assert torch.equal(filled[known < 6], known[known < 6]) and filled.max() < 6
    for row in range(8):
        alone = parallel_ar.fill(model, labels[row : row + 1], known[row : row + 1], settings(steps=3), 0, first=row)
        assert torch.equal(alone[0], filled[row])
    assert torch.equal(filled[6:7], parallel_ar.sample(model, labels[6:7], settings(steps=3), 0, first=6))


# --- training ---------------------------------------------------------------------------------------------------------


def test_it_overfits_a_batch():
    model = network().train().requires_grad_(True)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    labels, codes = torch.arange(4) % 3, torch.randint(6, (4, 9), generator=torch.Generator().manual_seed(0))
    labels[3] = model.num_classes
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for step in range(200):
        loss = parallel_ar.loss(model, labels, codes, torch.Generator().manual_seed(step), 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().requires_grad_(False)
    assert float(parallel_ar.nats(model, labels, codes, torch.Generator().manual_seed(0)).mean()) / 9 < 0.1
    assert torch.equal(parallel_ar.sample(model, labels, argmax(steps=5), 0), codes)
