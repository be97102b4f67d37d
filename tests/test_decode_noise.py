"""Noise of stochastic decoders: a function of the seed and of the codes of the image.

Run: uv run pytest tests/test_decode_noise.py
"""

import numpy as np
import pytest
import torch
from scipy import stats

from stages.decoder.decoder import normal, seeds_of, uniform

CODES = torch.randint(256, (40, 16), generator=torch.Generator().manual_seed(0))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_an_images_seed_follows_from_the_generator_and_its_codes_alone():
    whole = seeds_of(CODES, generator(3))
    assert np.array_equal(whole[7:9], seeds_of(CODES[7:9], generator(3)))
    assert np.array_equal(whole[::-1], seeds_of(CODES.flip(0), generator(3)))
    assert np.array_equal(whole, seeds_of(CODES.to(torch.int32), generator(3)))
    assert len({*whole, *seeds_of(CODES, generator(4)), *seeds_of(CODES, None)}) == 3 * len(CODES)
    assert np.array_equal(seeds_of(CODES, None), seeds_of(CODES, None))


def test_the_seeds_stay_the_same_on_every_machine():
    assert seeds_of(torch.arange(4)[None], None).tolist() == [3482909676761380063]


def test_one_number_is_drawn_from_the_generator_for_any_batch():
    after = []
    for count in (1, 40):
        source = generator(0)
        seeds_of(CODES[:count], source)
        after.append(source.get_state())
    assert torch.equal(*after) and not torch.equal(after[0], generator(0).get_state())


@pytest.mark.parametrize("draw", [normal, uniform])
def test_the_noise_of_an_image_does_not_depend_on_its_batch(draw):
    seeds = seeds_of(CODES, None)
    whole = draw(seeds, (3, 5), "cpu")
    assert whole.shape == (40, 3, 5) and whole.dtype == torch.float32
    assert torch.equal(whole[4:6], draw(seeds[4:6], (3, 5), "cpu"))
    assert len(whole.flatten(1).unique(dim=0)) == 40
    assert draw(seeds[:0], (3, 5), "cpu").shape == (0, 3, 5)


def test_noise_is_distributed_as_it_says():
    seeds = seeds_of(CODES, None)
    gauss, even = (draw(seeds, (2000,), "cpu").flatten().numpy() for draw in (normal, uniform))
    assert stats.kstest(gauss, "norm").pvalue > 0.01 and stats.kstest(even, "uniform").pvalue > 0.01
    assert 0 <= even.min() and even.max() < 1
    assert abs(np.corrcoef(normal(seeds, (2000,), "cpu")[:2].numpy())[0, 1]) < 0.1
