"""The 1,797 handwritten digits inside scikit-learn: 8x8 scans, 17 gray levels, ten classes. Nothing is downloaded."""

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from stages.core.params import impossible
from stages.data.params import Params
from stages.data.source import Candidate, Prepared, Source, one_by_one

CLASSES = [str(digit) for digit in range(10)]


def open_digits(params: Params) -> Source:
    """All scans, split by `split_digits`."""
    scans, labels = load_digits(return_X_y=True)
    candidates = [Candidate(f"{i:08d}", f"digits-{i}", int(label)) for i, label in enumerate(labels)]
    splits = split_digits(labels, params.val_fraction, params.seed)

    def open_one(candidate: Candidate) -> Prepared:
        return Prepared(enlarge(scans[int(candidate.key)].reshape(8, 8), params.img_px), {})

    return Source(
        classes=CLASSES,
        splits={split: [candidates[i] for i in indices] for split, indices in splits.items()},
        open=one_by_one(open_one),
        decode_bytes=params.img_px**2 * 6,
    )


def split_digits(labels: np.ndarray, val_fraction: float, seed: int) -> dict[str, np.ndarray]:
    """{train, val: int64 indices, sorted}: seeded, stratified by class, round(val_fraction * 1797) in val."""
    num_val = round(val_fraction * len(labels))
    if not len(CLASSES) <= num_val <= len(labels) - len(CLASSES):
        raise impossible(
            "data.val_fraction", val_fraction, f"{num_val} of {len(labels)} images in val; both splits need 10 or more"
        )
    train, val = train_test_split(np.arange(len(labels)), test_size=num_val, stratify=labels, random_state=seed)
    return {"train": np.sort(train), "val": np.sort(val)}


def enlarge(scan: np.ndarray, img_px: int) -> Image.Image:
    """A scan, float [8, 8] in 0 ... 16, as an RGB image of `img_px`, enlarged bicubically."""
    gray = Image.fromarray(np.round(scan * (255 / 16)).astype(np.uint8))
    return gray.resize((img_px, img_px), Image.Resampling.BICUBIC).convert("RGB")
