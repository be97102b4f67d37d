"""Nearest-code lookup on real patch features: Codebook.assign against vector-quantize-pytorch, plain torch and faiss.

Run:    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 uv run --group bench python benchmarks/lookup.py
        (after: uv run dvc repro features)
Expect: for each K, vectors per second, medians of 7 alternated runs on the digits' features, ratios, share of equal
        codes.

vector-quantize-pytorch twice: its forward, which also makes one-hot vectors and the chosen code vectors; and the lookup
alone, which is its `cdist` and an argmax.

The code vectors are K of the features with a little noise; all get the same features. "Equal" is against brute force in
float64; what is not equal there is a tie within float32.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch
from torch import Tensor

from stages.codebook.quantizers import Codebook
from stages.features.reader import FeatureSplit

Lookup = Callable[[Tensor], Tensor]  # float32 [1, M, D] -> int64 [1, M]
OURS, PLAIN = "ours, Codebook.assign", "torch, addmm + argmin at once"
VQ, VQ_PART = "vector-quantize-pytorch, forward", "vector-quantize-pytorch, cdist"


def by_vector_quantize(vectors: Tensor) -> Lookup:
    from vector_quantize_pytorch import VectorQuantize

    peer = VectorQuantize(dim=vectors.shape[1], codebook_size=len(vectors)).eval()
    peer._codebook.embed.data.copy_(vectors[None])
    return lambda features: peer(features)[1]


def by_its_distances(vectors: Tensor) -> Lookup:
    from vector_quantize_pytorch.vector_quantize_pytorch import cdist

    return lambda features: (-cdist(features, vectors[None])).argmax(-1)


def by_torch(vectors: Tensor) -> Lookup:
    return lambda features: torch.addmm(vectors.square().sum(1), features[0], vectors.T, alpha=-2).argmin(1)[None]


def by_faiss(vectors: Tensor) -> Lookup:
    index = faiss.IndexFlatL2(vectors.shape[1])
    index.add(vectors.numpy())
    return lambda features: torch.from_numpy(index.search(features[0].numpy(), 1)[1][:, 0])[None]


def ours(vectors: Tensor) -> Lookup:
    return Codebook(vectors, normalize=False).assign


MAKERS = {OURS: ours, VQ: by_vector_quantize, VQ_PART: by_its_distances, PLAIN: by_torch, "faiss.IndexFlatL2": by_faiss}


def exact(features: Tensor, vectors: Tensor) -> Tensor:
    """int64 [1, M] by brute force in float64, a part at a time."""
    return torch.cat([torch.cdist(part.double(), vectors.double()).argmin(1) for part in features[0].split(1024)])[None]


def compare(features: Tensor, vectors: Tensor, rounds: int) -> None:
    """Print vectors per second of each lookup."""
    lookups, truth = {name: make(vectors) for name, make in MAKERS.items()}, exact(features, vectors)
    equal = {
        name: (lookup(features) == truth).double().mean().item() for name, lookup in lookups.items()
    }  # and warm up
    taken: dict[str, list[float]] = {name: [] for name in lookups}
    for _ in range(rounds):
        for name, lookup in lookups.items():
            started = time.perf_counter()
            lookup(features)
            taken[name].append(time.perf_counter() - started)
    seconds = {name: statistics.median(values) for name, values in taken.items()}
    print(f"K = {len(vectors):,}, {features.shape[1]:,} features of {features.shape[2]}")
    for name, value in seconds.items():
        rate = features.shape[1] / value
        spread = f"{min(taken[name]) * 1e3:.0f} to {max(taken[name]) * 1e3:.0f} ms"
        print(f"  {name:32} {rate:12,.0f} vectors/s ({spread}), equal {equal[name]:.6f}")
    ratios = [f"{seconds[name] / seconds[OURS]:.2f} times as fast as {name}" for name in (VQ, VQ_PART, PLAIN)]
    print(f"  ours is {'; '.join(ratios)}", flush=True)


def side_by_side(features_MND: np.ndarray, dim: int) -> np.ndarray:
    """[vectors, dim]: each patch's features before those of the patches that follow it, or as stored for 0."""
    count = -(-dim // features_MND.shape[2]) or 1
    wide = [features_MND[:, n : features_MND.shape[1] - count + 1 + n] for n in range(count)]
    return np.concatenate(wide, 2).reshape(-1, count * features_MND.shape[2])[:, : dim or None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, default=Path("data/features"))
    parser.add_argument("--codes", type=int, nargs="+", default=[256, 1024, 8192])
    parser.add_argument("--vectors", type=int, default=8192)
    parser.add_argument("--dim", type=int, default=0, help="of several patches side by side; 0: as stored")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    faiss.omp_set_num_threads(torch.get_num_threads())
    points = side_by_side(np.stack(list(FeatureSplit(args.features, "train"))), args.dim)
    rng = np.random.default_rng(0)
    features = torch.from_numpy(points[rng.choice(len(points), args.vectors, replace=False)].astype(np.float32))[None]
    print(f"{torch.get_num_threads()} threads; medians of {args.rounds} alternated runs")
    with torch.inference_mode():
        for num_codes in args.codes:
            chosen = points[rng.choice(len(points), num_codes, replace=False)].astype(np.float32)
            noise = rng.normal(0, 0.1, chosen.shape).astype(np.float32)
            compare(features, torch.from_numpy(chosen + noise), args.rounds)


if __name__ == "__main__":
    main()
