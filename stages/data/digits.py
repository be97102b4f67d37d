"""The 1,797 handwritten digits inside scikit-learn: 8x8 scans, 17 grey levels, ten classes. Nothing is downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.core.params import impossible
from stages.data.candidates import Candidate, Picture, Source, one_by_one

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

CLASSES = [str(digit) for digit in range(10)]


def open_digits(img_px: int, val_fraction: float, seed: int) -> Source:
    """All scans, split by `split_digits`."""
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)
    candidates = [Candidate(f"{i:08d}", f"digits-{i}", int(label)) for i, label in enumerate(labels)]
    splits = split_digits(labels, val_fraction, seed)
    return Source(
        classes=CLASSES,
        splits={split: [candidates[i] for i in indices] for split, indices in splits.items()},
        open=one_by_one(lambda candidate: Picture(render(scans[int(candidate.key)].reshape(8, 8), img_px), {})),
        decode_bytes=img_px**2 * 6,
    )


def split_digits(labels: np.ndarray, val_fraction: float, seed: int) -> dict[str, np.ndarray]:
    """{train, val: int64 indices, sorted}: seeded, the classes in equal shares, round(val_fraction * 1797) in val."""
    import numpy as np
    from sklearn.model_selection import train_test_split

    num_val = round(val_fraction * len(labels))
    if not len(CLASSES) <= num_val <= len(labels) - len(CLASSES):
        raise impossible(
            "data.val_fraction", val_fraction, f"{num_val} of {len(labels)} images in val; both splits need 10 or more"
        )
    train, val = train_test_split(np.arange(len(labels)), test_size=num_val, stratify=labels, random_state=seed)
    return {"train": np.sort(train), "val": np.sort(val)}


def render(scan: np.ndarray, img_px: int) -> Image:
    """A scan, float [8, 8] in 0 ... 16, as an RGB image of `img_px`, enlarged bicubically."""
    import numpy as np
    from PIL import Image

    grey = Image.fromarray(np.round(scan * (255 / 16)).astype(np.uint8))
    return grey.resize((img_px, img_px), Image.Resampling.BICUBIC).convert("RGB")
