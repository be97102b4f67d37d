"""What samples are compared with: train or val images, a folder of images, or a published mean and covariance.

A .npz holds `mu` [D] and `sigma` [D, D], as ADM's VIRTUAL files do. FID alone can be computed from it.
"""

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.core import UserError, artifact
from stages.core.distributed import random_subset
from stages.data.decode import EXTENSIONS, FILE_BYTES, decode_rgb, read_file, to_square
from stages.data.listing import list_folder
from stages.data.source import Refused
from stages.evaluate.frechet import Gaussian, few_threads, gaussian
from stages.evaluate.neighbors import knn_radii
from stages.evaluate.params import ReferenceParams
from stages.evaluate.rows import Rows

MEAN_ALONE = "reference.statistics holds a mean and a covariance alone"
SYMMETRY = 1e-6  # of the greatest variance


@dataclass(frozen=True)
class Compared:
    """R images to compare samples with: `name` is train, val or statistics.

    `gaussians` {extractor}; `features` {extractor: float32 [R, D]}, `radii` {extractor: float32 [R, 2]} to the nearest
    others of precision and of density, NaN where there are too few others; both empty for a .npz. `labels` int64 [R],
    -1 without a class, empty for a .npz. `facts` are entries of the protocol.
    """

    name: str
    gaussians: dict[str, Gaussian]
    features: dict[str, Rows]
    radii: dict[str, Tensor]
    labels: np.ndarray
    facts: dict[str, Any]


def compare(features: Mapping[str, Rows], neighbors: Sequence[int]) -> dict[str, Tensor]:
    """Tensors of the artifact: mean, covariance and radii by extractor, of float32 [R, D] each."""
    found: dict[str, Tensor] = {}
    for name, one in features.items():
        if len(one) > 1:
            with few_threads(one.shape[1]):
                found |= gaussian_tensors(name, gaussian(one))
        found[f"compared.radii.{name}"] = knn_radii(one, neighbors)
    return found


def gaussian_tensors(name: str, of: Gaussian) -> dict[str, Tensor]:
    """As the artifact holds them, float64."""
    mean, covariance = (torch.from_numpy(np.ascontiguousarray(one)) for one in (of.mean, of.covariance))
    return {f"compared.mean.{name}": mean, f"compared.covariance.{name}": covariance}


def read_statistics(path: Path, by: str, dim: int) -> Gaussian:
    """The mean and covariance in a .npz file; `UserError` if they are not those of `dim` features by extractor `by`."""
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, covariance = (np.asarray(file[key], np.float64) for key in ("mu", "sigma"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"reference.statistics = {path}: expected a .npz with mu and sigma: {error}") from None
    if mean.shape != (dim,) or covariance.shape != (dim, dim):
        shapes = f"mu {list(mean.shape)} and sigma {list(covariance.shape)}"
        raise UserError(f"reference.statistics = {path}: {shapes}; the extractor {by} has {dim} features")
    finite = np.isfinite(mean).all() and np.isfinite(covariance).all()
    if not finite or abs(covariance - covariance.T).max() > SYMMETRY * np.diag(covariance).max():
        raise UserError(f"reference.statistics = {path}: sigma is no covariance: not symmetric, or not finite")
    return Gaussian(mean, covariance, 0)


class Folder:
    """The images below a folder, at most `max_images` of them, drawn by the seed; each the central square of `px`."""

    def __init__(self, folder: Path, px: int, params: ReferenceParams):
        listing = list_folder(folder)
        names = [name for name in listing.files if name.lower().endswith(EXTENSIONS)]
        if len(names) < 2:
            raise UserError(f"reference.statistics = {folder}: {len(names)} images, expected 2 or more")
        self.folder, self.px = folder, px
        self.names = [names[one] for one in random_subset(len(names), params.max_images or len(names), params.seed)]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, numbers: range) -> np.ndarray:
        """uint8 [B, px, px, 3]; a file that is no image is a `UserError`: without it the reference would be another."""
        return np.stack([self._open(self.names[number]) for number in numbers])

    def digest(self) -> str:
        """sha256 of the names and the bytes of the images."""
        found = hashlib.sha256()
        for name in self.names:
            found.update(f"{name}\n{artifact.sha256(self.folder / name)}\n".encode())
        return found.hexdigest()

    def _open(self, name: str) -> np.ndarray:
        try:
            image, _ = decode_rgb(read_file(self.folder / name, FILE_BYTES), "white", self.px)
        except Refused as error:
            raise UserError(f"reference.statistics: {self.folder / name}: {error}") from None
        return np.asarray(to_square(image, self.px, "center", "white"))
