#!/usr/bin/env bash
# Expected: with nredo=3, faiss.Kmeans.iteration_stats holds the iterations of the redo whose centroids are returned.
# Found:    it also holds the iterations of the worse redos before it, and each redo may stop early, so that neither the
#           first nor the last `niter` rows are the curve of the returned centroids. faiss-cpu 1.15.1.
# Workaround: stages/codebook/streaming.py runs the redos one by one with nredo=1.
set -euo pipefail
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet faiss-cpu==1.15.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import faiss
import numpy as np

rng = np.random.default_rng(7)
points = (rng.normal(size=(8, 1, 4)) * 4 + rng.normal(size=(8, 200, 4))).reshape(-1, 4).astype(np.float32)
niter, nredo = 60, 3
kmeans = faiss.Kmeans(4, 8, niter=niter, nredo=nredo, seed=0, min_points_per_centroid=1)
kmeans.train(points)
objectives = [row["obj"] for row in kmeans.iteration_stats]
rises = [row for row in range(1, len(objectives)) if objectives[row] > objectives[row - 1] * (1 + 1e-6)]
print(f"faiss {faiss.__version__}; expected to see: one falling curve of at most {niter} rows")
print(f"got: {len(objectives)} rows; the objective rises at rows {rises}: a new redo begins there")
sys.exit(not (rises and len(objectives) < niter * nredo))
PYTHON
