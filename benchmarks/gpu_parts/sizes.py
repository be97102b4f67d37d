"""How large the networks and batches of the GPU benchmark are; `tiny` is for a test on a CPU."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Steps count from the first; those before `warm` (compilation, first allocations) are not timed."""

    matrix_bytes: int  # of what is copied on the device
    photo: tuple[int, int]  # width and height of the files of the image training
    img_px: int
    files: int
    image_batch: int
    widths: list[int]  # of an fsq tokenizer, as in params.yaml
    workers: int
    dim: int  # of the generator, from here on
    depth: int
    heads: int
    num_codes: int
    patches: int
    token_batch: int
    steps: int
    warm: int
    sample_batches: tuple[int, ...]
    twin_steps: int


SIZES = {
    "large": Sizes(
        matrix_bytes=2**32, photo=(500, 375), img_px=256, files=768, image_batch=64, widths=[256, 128, 128, 64],
        workers=14, dim=1024, depth=12, heads=16, num_codes=8192, patches=256, token_batch=128, steps=40, warm=10,
        sample_batches=(64, 1), twin_steps=10,
    ),
    "tiny": Sizes(
        matrix_bytes=2**16, photo=(40, 30), img_px=16, files=40, image_batch=4, widths=[8, 8], workers=2,
        dim=16, depth=2, heads=2, num_codes=20, patches=4, token_batch=4, steps=6, warm=2, sample_batches=(3, 1),
        twin_steps=3,
    ),
}  # fmt: skip
