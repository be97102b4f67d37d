"""Editing: what is drawn anew and what stays, which pixels have influence, errors.

Run: uv run pytest tests/test_editing.py
"""

import re
import shutil

import numpy as np
import pytest
import toy as toys

import semtok
from stages.core import UserError
from stages.generator import editing

PX, GRID = toys.IMG_PX, 4  # patches of 4 pixels


@pytest.fixture(scope="module")
def masked(trained):
    return semtok.load_generator(trained / "generator/kmeans-masked")


@pytest.fixture(scope="module")
def ar(trained):
    return semtok.load_generator(trained / "generator/kmeans-ar")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, PX, PX, 3), dtype=np.uint8)


def square(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    """A mask that is true in a rectangle."""
    mask = np.zeros((PX, PX), bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize(
    ("rectangle", "patches"),
    [
        ((0, 4, 0, 4), [0]),  # exactly one patch
        ((3, 5, 3, 5), [0, 1, 4, 5]),  # one pixel of each of four patches
        ((7, 8, 0, 16), [4, 5, 6, 7]),
        ((0, 16, 0, 16), list(range(16))),
    ],
)
def test_a_code_is_drawn_if_a_masked_pixel_lies_in_its_patch(rectangle, patches):
    mask = square(*rectangle)[None]
    assert np.flatnonzero(editing.overlapped(mask, GRID, 1)[0]).tolist() == patches
    assert np.flatnonzero(editing.overlapped(mask, GRID, 2)[0]).tolist() == [*patches, *(16 + one for one in patches)]


def test_patches_of_no_whole_number_of_pixels_overlap_at_their_edges():
    mask = np.zeros((1, 10, 10), bool)
    mask[0, 0, 2] = True  # patches of 2.5 pixels: pixel 2 lies in the first and in the second
    assert np.flatnonzero(editing.overlapped(mask, GRID, 1)[0]).tolist() == [0, 1]


def test_codes_outside_of_the_mask_are_those_of_the_image(masked, images):
    mask = square(3, 9, 6, 16)
    sample = masked.inpaint(images, mask, classes=["bars", 2, None], seed=0)
    drawn = editing.overlapped(mask[None], GRID, 1)[0]
    before = masked.tokenizer.encode(editing.hidden(images, np.stack([mask] * 3)))
    assert np.array_equal(sample.codes[:, ~drawn], before[:, ~drawn]) and drawn.sum() == 9
    assert np.array_equal(sample.images, masked.decoder.decode(sample.codes))
    others = [masked.inpaint(images, mask, seed=seed).codes for seed in (0, 1, 2)]
    assert all(np.array_equal(one[:, ~drawn], before[:, ~drawn]) for one in others)
    assert len({one[:, drawn].tobytes() for one in others}) == 3


def test_hidden_pixels_have_no_influence(masked, images):
    mask = square(4, 8, 4, 12)
    changed = np.where(mask[..., None], 255 - images, images)
    both = [masked.inpaint(one, mask, seed=0) for one in (images, changed)]
    assert np.array_equal(both[0].codes, both[1].codes) and np.array_equal(both[0].images, both[1].images)


def test_one_image_alone_and_masks_of_their_own(masked, images):
    masks = np.stack([square(0, 4, 0, 4), square(0, 16, 0, 16), square(8, 16, 0, 16)])
    together = masked.inpaint(images, masks, precision="fp32")
    alone = masked.inpaint(images[0], masks[0], precision="fp32")
    assert np.array_equal(together.codes[:1], alone.codes) and alone.images.shape == (1, PX, PX, 3)


def test_a_mask_of_everything_is_a_sample(masked, images):
    whole = masked.inpaint(images, np.ones((PX, PX), bool), classes=[0, 1, 2], seed=4)
    assert np.array_equal(whole.codes, masked.sample([0, 1, 2], seed=4).codes)


def test_outpainting_keeps_the_image_where_it_was_put(masked, images):
    inner = images[:, 4:12, :12]
    sample = masked.outpaint(inner, right=4, top=4, bottom=4, seed=0)
    canvas = np.zeros_like(images)
    canvas[:, 4:12, :12] = inner
    same = masked.inpaint(canvas, ~square(4, 12, 0, 12), seed=0)
    assert np.array_equal(sample.codes, same.codes)


@pytest.mark.parametrize(("strength", "count"), [(0.001, 1), (0.25, 4), (1.0, 16)])
def test_vary_draws_a_share_of_the_codes_by_the_seed(masked, images, strength, count):
    before = masked.tokenizer.encode(images)
    chosen = editing.random_codes(3, 16, strength, 7)
    assert chosen.sum(1).tolist() == [count] * 3
    codes = masked.vary(images, strength, seed=7).codes
    assert np.array_equal(codes[~chosen], before[~chosen])
    assert np.array_equal(codes, masked.vary(images, strength, seed=7).codes)
    if count < 16:
        assert not np.array_equal(chosen, editing.random_codes(3, 16, strength, 8))


def test_ar_draws_what_follows_in_raster_order_and_nothing_else(ar, images):
    before = ar.tokenizer.encode(editing.hidden(images, np.stack([square(8, 16, 0, 16)] * 3)))
    codes = ar.inpaint(images, square(8, 16, 0, 16)).codes
    assert np.array_equal(codes[:, :8], before[:, :8])
    assert np.array_equal(ar.outpaint(images[:, :8], bottom=8).codes, codes)
    for call in (lambda: ar.inpaint(images, square(0, 8, 0, 16)), lambda: ar.vary(images, 0.5)):
        with pytest.raises(UserError, match="can only draw everything below some row"):
            call()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda g, x: g.inpaint(x, np.zeros((PX, PX), bool)), "mask: marks no pixel of image 0"),
        (
            lambda g, x: g.inpaint(x, np.zeros((PX, PX))),
            "mask: float64 [16, 16]: expected bool [H, W] or [3, H, W]",
        ),
        (lambda g, x: g.inpaint(x, np.ones((8, 8), bool)), "mask: [8, 8]: expected the 16 x 16 pixels of its image"),
        (lambda g, x: g.inpaint(x / 255, np.ones((PX, PX), bool)), "images: float64 [3, 16, 16, 3]: expected uint8"),
        (lambda g, x: g.inpaint(x[0, 0], np.ones((PX, PX), bool)), "images: uint8 [16, 3]: expected [H, W, 3]"),
        (lambda g, x: g.vary(x, 0.0), "strength = 0.0: expected a share of the codes"),
        (lambda g, x: g.vary(x, 1.5), "strength = 1.5: "),
        (lambda g, x: g.vary(x, 0.5, classes=[0]), "classes: 1 for 3 images"),
        (lambda g, x: g.vary(x, 0.5, classes=["bar"] * 3), "did you mean bars?"),
        (lambda g, x: g.vary(x, 0.5, steps=0), "steps = 0: "),
        (lambda g, x: g.outpaint(x), "images of 16 x 16 pixels with left 0, right 0, top 0, bottom 0: expected"),
        (lambda g, x: g.outpaint(x[:, :8], bottom=4), "expected 16 x 16 together, and something added"),
        (lambda g, x: g.outpaint(x, left=-4, right=4), "outpaint: left = -4: expected greater than or equal to 0"),
    ],
)
def test_impossible_edits_are_named(masked, images, call, said):
    with pytest.raises(UserError, match=re.escape(said)):
        call(masked, images)


def test_a_kind_that_draws_whole_images_only_says_so(masked, images, monkeypatch):
    monkeypatch.delattr(masked.kind, "FILLS")
    with pytest.raises(UserError, match="kind masked draws whole images only"):
        masked.vary(images, 0.5)


def test_the_codebook_must_be_the_generators_and_may_lie_elsewhere(trained, images, tmp_path):
    decoder = trained / "decoder/kmeans-onestep"
    moved = shutil.copytree(trained / "generator/kmeans-masked", tmp_path / "data/generator/kmeans-masked")
    with pytest.raises(UserError, match=r"kmeans: no such codebook: pass load_generator\(…, codebook=PATH\)"):
        semtok.load_generator(moved, decoder).vary(images, 0.5)
    codes = semtok.load_generator(moved, decoder, codebook=trained / "codebook/kmeans").vary(images, 0.5).codes
    beside = semtok.load_generator(trained / "generator/kmeans-masked")
    assert np.array_equal(codes, beside.vary(images, 0.5).codes)
    with pytest.raises(UserError, match="not the codebook whose codes this generator draws"):
        semtok.load_generator(moved, decoder, codebook=trained / "encoder").vary(images, 0.5)
