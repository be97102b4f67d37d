"""Metrics of image pairs and image sets: SSIM, KID, IS, precision and recall, density and coverage.

They equal torch-fidelity's, which the tests compare them with. Importing it takes as long as importing torch: it brings
torchvision and torch's compiler. Only extractors that others trained need it (pretrained.py).
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from stages.evaluate.neighbors import CHUNK, blocks, knn_radii, runs
from stages.evaluate.rows import Rows

KID_SUBSETS = 100
IS_SPLITS = 10
SSIM_WINDOW_PX, SSIM_SIGMA_PX, SSIM_K1, SSIM_K2 = 11, 1.5, 0.01, 0.03
SSIM_IMAGES = 50  # at once


def too_few(
    images: int, reference: int, kid_subset_size: int, prc_neighbors: int, density_neighbors: int
) -> dict[str, str]:
    """{<metric>_skipped: why} for the metrics that so many images, against so many of a reference, do not permit."""
    fewest = min(images, reference)
    needed = {  # metric -> images needed, those there, what needs them
        "gfid": (2, fewest, "a covariance"),
        "gkid": (kid_subset_size, fewest, "generation.kid_subset_size"),
        "is": (IS_SPLITS, images, "the splits"),
        "precision_recall": (prc_neighbors + 1, fewest, "reference.prc_neighbors + 1"),
        "density_coverage": (density_neighbors + 1, reference, "reference.density_neighbors + 1"),
    }
    why = {name: f"{least} images needed ({what}), {there} there" for name, (least, there, what) in needed.items()}
    return {f"{name}_skipped": why[name] for name, (least, there, _) in needed.items() if there < least}


def kid(features: Rows, reference: Rows, subset_size: int, seed: int) -> float:
    """Mean squared MMD over 100 subsets (Bińkowski et al. 2018); around 0 for independent sets of one distribution."""
    rng, found = np.random.RandomState(seed), np.empty(KID_SUBSETS)
    for draw in range(KID_SUBSETS):
        chosen = [one[rng.choice(len(one), subset_size, replace=False)].numpy() for one in (features, reference)]
        found[draw] = squared_mmd(*chosen)
    return float(found.mean())


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased squared MMD of float [M, D] twice under the kernel (x · y / D + 1)³ (Bińkowski et al. 2018, section 4).

    Sums are in torch-fidelity's order, so that single precision gives its numbers to the last bit.
    """
    count, dim = x.shape
    of_x, of_y, mixed = ((np.matmul(a, b.T) * (1 / dim) + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = sum((kernel.sum(1) - np.diagonal(kernel)).sum() for kernel in (of_x, of_y))
    return float(within / (count * (count - 1)) - 2 * mixed.sum(0).sum() / count**2)


def inception_score(logits: Tensor, seed: int) -> float:
    """exp of the mean KL from class probabilities to their mean, the mean of 10 splits (Salimans et al. 2016).

    From 1 to the number of classes; less where splits are small: 10 classes in random splits of 50 reach 9.2.
    """
    shuffled = logits[np.random.RandomState(seed).permutation(len(logits))].double()
    ends = [split * len(logits) // IS_SPLITS for split in range(IS_SPLITS + 1)]
    return float(np.mean([_score_of_split(shuffled[start:end]) for start, end in pairwise(ends)]))


def _score_of_split(logits: Tensor) -> float:
    """exp of the mean KL from class probabilities [M, classes] to their mean."""
    found = logits.softmax(1)
    return (found * (logits.log_softmax(1) - found.mean(0).log())).sum(1).mean().exp().item()


def neighborhood_metrics(
    features: Rows, reference: Rows, radii: Tensor, prc_neighbors: int, density_neighbors: int
) -> dict[str, float]:
    """Precision, recall, density and coverage of samples float [M, D] against [R, D], in one pass over all distances.

    `radii` [R, 2]: to the k-th nearest of the reference, with k for precision and k for density.
    precision: share of samples inside those balls; recall: the reverse (Kynkäänniemi et al. 2019, equation 2). As
    torch-fidelity's, which measures the radii of the reference anew for every set.
    density: balls per sample, over k; coverage: share of balls that hold one (Naeem et al. 2020, section 3). For as
    many samples of the reference's own distribution they are 1 and 1 - 2^-k in expectation; density may exceed 1.
    """
    own = knn_radii(features, [prc_neighbors])
    precise = torch.zeros(len(features), dtype=torch.bool)
    recalled, covered, inside = torch.zeros(len(reference), dtype=torch.bool), torch.zeros(len(reference)).bool(), 0
    for rows, columns, distances in between(reference, features):
        precise[columns] |= (distances <= radii[rows, :1]).any(0)
        recalled[rows] |= (distances <= own[columns, 0]).any(1)
        held = distances <= radii[rows, 1:]
        inside += int(held.sum())
        covered[rows] |= held.any(1)
    shares = {"precision": precise, "recall": recalled, "coverage": covered}
    found = {name: one.float().mean().item() for name, one in shares.items()}
    return found | {"density": inside / (density_neighbors * len(features))}


def between(reference: Rows, features: Rows) -> Iterator[tuple[slice, slice, Tensor]]:
    """Distances [r, m] of a chunk of the reference [R, D] to a block of features [M, D], after the numbers of both."""
    for columns, part in blocks(features):
        for rows in runs(len(reference), CHUNK):
            yield rows, columns, torch.cdist(reference[rows], part)


def ssim(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """uint8 [B, H, W, 3] twice -> float64 [B], mean over windows and channels (Wang et al. 2004, equation 13).

    Gaussian windows of 11 px (less in smaller images), sigma 1.5 px, that lie inside the image; K1 .01, K2 .03.
    """
    runs = (torch.from_numpy(of).permute(0, 3, 1, 2).split(SSIM_IMAGES) for of in (images, others))
    return torch.cat([_ssim_of_run(x.double(), y.double()) for x, y in zip(*runs, strict=True)]).numpy()


def _ssim_of_run(x: Tensor, y: Tensor) -> Tensor:
    """float64 [B, 3, H, W] twice -> float64 [B]; all at once, in some ten times their memory."""
    down, across = (_windows(size) for size in x.shape[2:])
    mean_x, mean_y, xx, yy, xy = (down @ plane @ across.T for plane in (x, y, x * x, y * y, x * y))
    c1, c2 = (SSIM_K1 * 255) ** 2, (SSIM_K2 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * (xy - mean_x * mean_y) + c2) / (xx - mean_x**2 + yy - mean_y**2 + c2)
    return (luminance * structure).mean((1, 2, 3))


def _windows(size: int) -> Tensor:
    """float64 [positions, size]: a Gaussian of sum 1 at every position along a line of `size` pixels where it fits.

    A product with it is a convolution; torch's own, in float64, takes 20 times as long.
    """
    side = min(SSIM_WINDOW_PX, (size - 1) // 2 * 2 + 1)
    line = torch.exp(-((torch.arange(side, dtype=torch.float64) - side // 2) ** 2) / (2 * SSIM_SIGMA_PX**2))
    offset = torch.arange(size)[None] - torch.arange(size - side + 1)[:, None]
    return torch.where((offset >= 0) & (offset < side), (line / line.sum())[offset.clamp(0, side - 1)], 0.0)
