"""RenderTransformer: what its logits depend on, caching, sampling, overfitting a batch.

Run: uv run pytest tests/test_render_transformer.py
"""

import numpy as np
import pytest
import torch

from stages.core import UserError
from stages.decoder.decoder import Decoder, seeds_of
from stages.decoder.render import RenderDecoder, RenderTransformer
from stages.decoder.render_training import LOSSES

GIVEN, NUM_GIVEN, CODES, PATCHES = 8, 11, 6, 9  # eight given codes: two at each of four places
GRAY_STEP = 51  # gray levels between two codes
METHODS = ("ar", "masked")


def network(method: str, *, scale: float = 10.0) -> RenderTransformer:
    """A small random model; larger weights, so that its logits really differ."""
    torch.manual_seed(0)
    sizes = {"num_given": NUM_GIVEN, "given_patches": GIVEN, "num_codes": CODES, "num_patches": PATCHES}
    model = RenderTransformer(**sizes, dim=16, depth=2, heads=2, dropout=0.0, causal=method == "ar")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= scale if parameter.ndim > 1 else 1
    return model.eval().requires_grad_(False)


class Patches(Decoder):
    """One gray pixel per pixel code."""

    def decode_batch(self, codes_BN, seeds_B):
        return (codes_BN.float() * GRAY_STEP / 127.5 - 1).view(-1, 1, 3, 3).expand(-1, 3, -1, -1)


def decoder(method: str, model: RenderTransformer | None = None, **sampling) -> RenderDecoder:
    """A decoder for two codes at each of 2 x 2 places."""
    settings = {"temperature": 1.0, "top_p": 1.0, "steps": 4, "choice_temperature": 4.5, **sampling}
    inner = Patches(torch.nn.Identity(), {"num_codes": CODES, "codebooks": 1, "grid": 3}, "cpu")
    config = {"kind": "render", "num_codes": NUM_GIVEN, "codebooks": 2, "grid": 2, "sampling": settings}
    return RenderDecoder(model or network(method), config, "cpu", inner)


def pair(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    given = torch.randint(NUM_GIVEN, (batch, GIVEN), generator=rng)
    return given, torch.randint(CODES, (batch, PATCHES), generator=rng)


def shifted(codes: torch.Tensor, place: int, count: int) -> torch.Tensor:
    changed = codes.clone()
    changed[:, place] = (changed[:, place] + 1) % count
    return changed


@pytest.mark.parametrize("method", METHODS)
def test_logits_depend_on_every_given_code_at_every_position_and_are_over_pixel_codes_alone(method):
    model, (given, pixel) = network(method), pair(3)
    before = model(given, pixel)
    assert before.shape == (3, PATCHES, CODES) and before.dtype == torch.float32
    for place in range(GIVEN):
        change = (model(shifted(given, place, NUM_GIVEN), pixel) - before).abs().amax(-1)
        assert (change > 1e-6).all(), place


def test_ar_logits_do_not_depend_on_their_own_or_later_pixel_codes_but_on_all_earlier():
    model, (given, pixel) = network("ar"), pair(3)
    before = model(given, pixel)
    for place in range(PATCHES):
        after = model(given, shifted(pixel, place, CODES))
        assert torch.equal(after[:, : place + 1], before[:, : place + 1])
        assert ((after - before).abs().amax(-1)[:, place + 1 :] > 1e-6).all()


def test_logits_at_some_positions_equal_those_of_the_full_forward():
    model, (given, pixel) = network("masked"), pair(3)
    mask = torch.rand(pixel.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    torch.testing.assert_close(model(given, pixel, mask), model(given, pixel)[mask])


def test_masked_logits_depend_on_every_pixel_code():
    model, (given, pixel) = network("masked"), pair(3)
    before = model(given, pixel)
    for place in range(PATCHES):
        assert ((model(given, shifted(pixel, place, CODES)) - before).abs().amax(-1) > 1e-6).all()
        assert not torch.equal(model(given, pixel.index_fill(1, torch.tensor(place), CODES)), before)


def test_the_given_codes_are_causal_too():
    model, (given, _) = network("ar"), pair(2)
    caches = [model.new_cache(2), model.new_cache(2)]
    for codes, cache in zip((given, shifted(given, 5, NUM_GIVEN)), caches, strict=True):
        model.next_logits(codes, codes[:, :0], cache)
    for (keys, values), (other_keys, other_values) in zip(*caches, strict=True):
        assert torch.equal(keys[:, :, :5], other_keys[:, :, :5])
        assert torch.equal(values[:, :, :5], other_values[:, :, :5])
        assert not torch.equal(values[:, :, 5:9], other_values[:, :, 5:9])


def test_cached_logits_equal_the_uncached_forward():
    model, (given, pixel) = network("ar"), pair(3)
    whole, cache = model(given, pixel), model.new_cache(3)
    for place in range(PATCHES):
        made = model.next_logits(given, pixel[:, :place], cache)
        torch.testing.assert_close(made, whole[:, place], atol=1e-4, rtol=1e-4)


def test_the_two_parts_have_separate_position_tables():
    tables = {name: tuple(p.shape) for name, p in network("ar").named_parameters() if name.startswith("embed")}
    shape = (NUM_GIVEN + 1 + CODES, 16)
    assert tables == {"embed_code.weight": shape, "embed_prefix": (GIVEN + 1, 16), "embed_pixel": (PATCHES, 16)}
    assert len(network("masked").embed_code.weight) == shape[0] + 1, "and one row for the mask code"


@pytest.mark.parametrize("method", METHODS)
def test_it_overfits_a_batch_and_reproduces_its_pixel_codes(method):
    model, (given, pixel) = network(method, scale=1.0).train().requires_grad_(True), pair(4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(100 if method == "ar" else 300):
        loss = LOSSES[method](model, given, pixel, torch.Generator().manual_seed(step), 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().requires_grad_(False)
    sampled = decoder(method, model, top_p=0.8).pixel_codes(given, seeds_of(given, None))
    assert torch.equal(sampled, pixel)
    images = decoder(method, model, top_p=0.8).decode(given)
    assert np.array_equal(images[..., 0].reshape(4, 9), pixel.numpy() * GRAY_STEP)


@pytest.mark.parametrize("method", METHODS)
def test_equal_seeds_and_codes_give_equal_images_in_any_batch(method):
    made, (given, _) = decoder(method), pair(12)
    given[11] = given[0]

    def images(codes, seed, batch_size=256):
        return made.decode(codes, torch.Generator().manual_seed(seed), batch_size)

    whole = images(given, 3)
    assert np.array_equal(whole, images(given, 3, 5)) and np.array_equal(whole, images(given, 3, 1))
    assert np.array_equal(whole[4:7], images(given[4:7], 3)) and np.array_equal(whole[::-1], images(given.flip(0), 3))
    assert np.array_equal(whole[0], whole[11]), "an image does not depend on its place"
    assert not np.array_equal(whole, images(given, 4)), "but on the seed"
    assert np.array_equal(made.decode(given), made.decode(given))


@pytest.mark.parametrize("method", METHODS)
def test_sampling_with_a_small_top_p_is_deterministic(method):
    made, given = decoder(method, top_p=1e-6, choice_temperature=0.0), pair(6)[0]
    first, second = (made.pixel_codes(given, seeds_of(given, torch.Generator().manual_seed(seed))) for seed in (0, 1))
    assert torch.equal(first, second)


def test_masked_sampling_takes_one_forward_pass_per_step(monkeypatch):
    made, calls, original = decoder("masked"), [], RenderTransformer.forward
    monkeypatch.setattr(RenderTransformer, "forward", lambda *a: (calls.append(1), original(*a))[1])
    made.decode(pair(2)[0])
    assert len(calls) == 4


def test_only_method_masked_takes_steps_and_all_networks_count_as_parameters():
    given, _ = pair(3)
    masked, causal = decoder("masked", steps=4), decoder("ar")
    assert masked.steps == 4 and (masked.with_steps(1).decode(given) == decoder("masked", steps=1).decode(given)).all()
    assert masked.steps == 4 and causal.steps is None
    for one, steps, said in ((causal, 2, "a decoder of kind render takes no steps"), (masked, 0, "expected greater")):
        with pytest.raises(UserError, match=f"steps = {steps}: {said}"):
            one.with_steps(steps)
    masked.pixel_decoder.network = torch.nn.Linear(2, 3)
    assert masked.num_parameters == sum(p.numel() for p in masked.network.parameters()) + 9
