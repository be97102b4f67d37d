"""Generators against oracles: brute force, identities, and variants with names of their own.

Run: uv run pytest tests/test_generator.py
"""

import itertools
import time

import numpy as np
import pytest
import torch
import toy as toys

from stages.core import UserError, artifact, sampling
from stages.generator import ar, masked
from stages.generator.alternating_params import load_sampling
from stages.generator.params import KINDS, MaskedSampling, Sampling, load_params
from stages.generator.transformer import TokenTransformer

AR = Sampling(temperature=1.0, top_k=0, top_p=1.0, guidance=1.0, precision="fp32")
MASKED = MaskedSampling(
    temperature=1.0, top_k=0, top_p=1.0, guidance=1.0, precision="fp32", steps=4, choice_temperature=4.5,
    mask_schedule="cosine",
)  # fmt: skip


def network(
    causal: bool, *, codes: int = 6, patches: int = 9, classes: int = 3, scale: float = 10.0
) -> TokenTransformer:
    """A small random model; larger weights, so that its logits really differ."""
    torch.manual_seed(0)
    model = TokenTransformer(
        num_codes=codes,
        num_classes=classes,
        num_patches=patches,
        grid=3,
        dim=16,
        depth=2,
        heads=2,
        dropout=0.0,
        causal=causal,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= scale if parameter.ndim > 1 else 1
    return model.eval().requires_grad_(False)


# --- autoregressive ---------------------------------------------------------------------------------------------------


def test_cached_logits_equal_the_uncached_forward():
    model = network(True)
    labels, codes = torch.tensor([0, 2, 3]), torch.randint(6, (3, 9))
    whole, cache = model(labels, codes), model.new_cache(3)
    for position in range(9):
        newest = codes[:, position - 1] if position else labels
        torch.testing.assert_close(model.next_logits(newest, position, cache), whole[:, position], atol=1e-4, rtol=1e-4)


def test_cached_sampling_is_faster_than_the_uncached_forward():
    torch.manual_seed(0)
    model = TokenTransformer(
        num_codes=64, num_classes=1, num_patches=144, grid=12, dim=64, depth=3, heads=4, dropout=0.0, causal=True
    ).eval()
    labels = torch.zeros(4, dtype=torch.long)

    def uncached() -> None:
        codes = torch.zeros(4, 0, dtype=torch.long)
        for _ in range(144):
            padded = torch.cat([codes, torch.zeros(4, 144 - codes.shape[1], dtype=torch.long)], 1)
            codes = torch.cat([codes, model(labels, padded)[:, codes.shape[1]].argmax(-1, keepdim=True)], 1)

    def seconds(work) -> float:
        begun = time.perf_counter()
        with torch.inference_mode():
            work()
        return time.perf_counter() - begun

    cached = min(seconds(lambda: ar.sample(model, labels, AR, 0)) for _ in range(2))
    # An order-of-growth difference, 144 positions against 144²/2: a factor far beyond any machine's noise.
    assert cached < seconds(uncached)


def test_ar_probabilities_of_all_sequences_sum_to_one():
    model = network(True, codes=3, patches=4, scale=5.0)
    every = torch.tensor(list(itertools.product(range(3), repeat=4)))
    nats = ar.nats(model, torch.full((len(every),), 1), every, torch.Generator())
    assert float((-nats).exp().sum()) == pytest.approx(1, abs=1e-4)


def test_ar_samples_follow_the_models_own_probabilities():
    model = network(True, codes=3, patches=2, scale=5.0)
    every = torch.tensor(list(itertools.product(range(3), repeat=2)))
    expected = (-ar.nats(model, torch.zeros(9, dtype=torch.long), every, torch.Generator())).exp()
    drawn = ar.sample(model, torch.zeros(4000, dtype=torch.long), AR, seed=0)
    found = torch.bincount(drawn[:, 0] * 3 + drawn[:, 1], minlength=9) / 4000
    assert float((found - expected).abs().max()) < 0.03


def test_ar_does_not_see_the_code_it_predicts_nor_later_ones():
    model, codes = network(True), torch.randint(6, (1, 9))
    changed = codes.clone()
    changed[0, 4:] = (changed[0, 4:] + 1) % 6
    before, after = (model(torch.tensor([0]), c) for c in (codes, changed))
    assert torch.equal(before[:, :5], after[:, :5]) and not torch.equal(before[:, 5:], after[:, 5:])


@pytest.mark.parametrize("causal", [True, False])
def test_the_class_changes_the_logits_at_every_position(causal):
    model, codes = network(causal), torch.randint(6, (1, 9))
    first, second = model(torch.tensor([0]), codes), model(torch.tensor([1]), codes)
    assert ((first - second).abs().amax(-1) > 1e-6).all()


# --- masked -----------------------------------------------------------------------------------------------------------


def test_logits_of_some_positions_are_those_of_all_there():
    model, codes, labels = network(False), torch.randint(6, (3, 9)), torch.arange(3) % 3
    mask = sampling.random_mask(torch.tensor([1, 4, 9]), 9, torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(labels, codes, mask), model(labels, codes)[mask])


def test_a_code_once_kept_is_never_masked_again(monkeypatch):
    model, seen = network(False), []
    original = masked.guided_logits
    monkeypatch.setattr(masked, "guided_logits", lambda *a: (seen.append(a[2].clone()), original(*a))[1])
    final = masked.sample(model, torch.zeros(20, dtype=torch.long), MASKED, seed=0)
    for earlier, later in itertools.pairwise([*seen, final]):
        known = earlier != model.num_codes
        assert torch.equal(earlier[known], later[known])
    assert len(seen) == MASKED.steps and (final < model.num_codes).all()


def test_masked_sampling_takes_at_most_as_many_forwards_as_steps(monkeypatch):
    model, calls = network(False), []
    original = masked.guided_logits
    monkeypatch.setattr(masked, "guided_logits", lambda *a: (calls.append(1), original(*a))[1])
    masked.sample(model, torch.zeros(2, dtype=torch.long), MASKED.model_copy(update={"steps": 12}), 0)
    assert len(calls) <= 12


def test_the_masked_bound_is_exact_for_a_model_that_ignores_other_codes():
    model = network(False, codes=4, patches=5)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0]))
    codes = torch.randint(4, (2000, 5))
    exact = -model.head.bias.log_softmax(0)[codes].sum(1).mean()
    bound = masked.nats(model, torch.zeros(2000, dtype=torch.long), codes, torch.Generator().manual_seed(0)).mean()
    assert float(bound) == pytest.approx(float(exact), rel=0.03)


# --- shared -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "setting"), [(ar, AR), (masked, MASKED)])
def test_a_sample_does_not_depend_on_its_batch(kind, setting):
    model, labels = network(kind is ar), torch.tensor([0, 1, 2, 3, 0, 1])
    whole = kind.sample(model, labels, setting, seed=5)
    parts = [kind.sample(model, labels[i : i + 2], setting, seed=5, first=i) for i in (0, 2, 4)]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, kind.sample(model, labels, setting, seed=6))


@pytest.mark.parametrize(("kind", "setting"), [(ar, AR), (masked, MASKED)])
def test_guidance_zero_is_the_unconditional_model(kind, setting):
    model = network(kind is ar)
    none = torch.full((6,), model.num_classes)
    guided = kind.sample(model, torch.arange(6) % 3, setting.model_copy(update={"guidance": 0.0}), seed=0)
    assert torch.equal(guided, kind.sample(model, none, setting, seed=0))


@pytest.mark.parametrize(("kind", "setting"), [(ar, AR), (masked, MASKED)])
def test_without_classes_nothing_is_computed_twice(kind, setting, monkeypatch):
    model, seen = network(kind is ar, classes=0), []
    monkeypatch.setattr(
        model, "_run", lambda x, *rest: (seen.append(len(x)), TokenTransformer._run(model, x, *rest))[1]
    )
    kind.sample(model, torch.zeros(5, dtype=torch.long), setting.model_copy(update={"guidance": 1.5}), seed=0)
    assert set(seen) == {5}


@pytest.mark.parametrize("kind", [ar, masked])
def test_it_overfits_a_batch(kind):
    model = network(kind is ar, scale=1.0).train().requires_grad_(True)
    labels, codes = torch.arange(4) % 3, torch.randint(6, (4, 9), generator=torch.Generator().manual_seed(0))
    labels[3] = model.num_classes
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for step in range(100 if kind is ar else 300):
        loss = kind.loss(model, labels, codes, torch.Generator().manual_seed(step), 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().requires_grad_(False)
    assert float(kind.nats(model, labels, codes, torch.Generator().manual_seed(0)).mean()) / 9 < 0.1
    setting = (AR if kind is ar else MASKED).model_copy(update={"top_k": 1})
    assert torch.equal(kind.sample(model, labels, setting, 0), codes)


# --- variants ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def variant() -> dict:
    """Changes of the toy's params that add a generator `wide` of kind masked."""
    optim = {"lr_peak": 2e-3, "weight_decay": 0.05, "beta2": 0.98, "clip_norm": 1.0, "ema_decay": 0.9, "seed": 0}
    section = {"kind": "masked", **optim, **toys.OPTIM, "condition": "class", "mask_ratio": "truncated-normal"}
    sampling = {**KINDS["masked"].plain.model_dump(), "steps": 2}
    return {"generators": ["wide"], "generator": {"wide": section}, "samples": {"wide": sampling}}


def test_a_generator_of_any_name_is_trained_and_sampled_as_its_kind(toy, tmp_path, variant):
    toys.write_params(tmp_path, variant)
    (tmp_path / "data").symlink_to(toy / "data")
    captions = "--captions data/captions/masked --text data/text"
    toys.run_line(
        f"stages.generator.train --name wide --tokens data/tokens/kmeans --codebook data/codebook/kmeans {captions} "
        "--out kmeans-wide --report r",
        tmp_path,
    )
    toys.run_line(f"stages.generator.sample --generator kmeans-wide {captions} --out samples/wide", tmp_path)
    config = artifact.read_config(tmp_path / "kmeans-wide", "generator")
    assert (config["kind"], config["name"], config["tokenizer"]) == ("masked", "wide", "kmeans")
    assert config["sampling"] == KINDS["masked"].plain.model_dump() and config["likelihood"]["bound"] == "upper"
    drawn = artifact.read_config(tmp_path / "samples/wide", "samples")
    assert drawn["sampling"] == variant["samples"]["wide"] and drawn["generator"]["name"] == "wide"
    assert np.load(tmp_path / "samples/wide/codes.npy").shape == (2, 20, 16)


@pytest.mark.parametrize(
    ("name", "section", "said"),
    [
        ("wide", {"kind": "diffusion"}, "generator.wide.kind = 'diffusion': expected one of ar, masked"),
        ("wide", {"batch_size": 0}, "generator.wide.batch_size = 0: "),
        ("wide", {"top_k": 3}, "generator.wide.top_k = 3: unknown key; generator.wide has total_steps"),
        ("model", {}, "generators = 'model': this name has another meaning"),
        ("images", {}, "generators = 'images': this name has another meaning"),
    ],
)
def test_impossible_sections_are_refused(tmp_path, variant, name, section, said):
    path = toys.write_params(tmp_path, {**variant, "generator": {"wide": {**variant["generator"]["wide"], **section}}})
    with pytest.raises(UserError, match=said):
        load_params(name, path)
    assert load_sampling("wide", "masked", path) == MaskedSampling(**variant["samples"]["wide"])
