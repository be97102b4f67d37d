"""Toy study of why a discriminative projection can be robust to noise: two classes in a plane, after PCA and after LDA.

Run:    semtok run pca_vs_lda
Expect: 5 s; after Fig. 5 of DiGIT (NeurIPS 2024), which gives no numbers: those of studies/params.yaml are chosen here.

Points of two overlapping Gaussian classes are projected to one dimension by PCA (the direction of most variance) or
by LDA (the direction that separates the classes), and classified there by a threshold half-way between the class
means. Both are fitted on clean points, as a tokenizer is; noise is added to the test points only. The direction
of most variance need not separate the classes. `bayes` is the best accuracy of any classifier of the noisy points in
the plane; LDA fitted on points with the same noise would come near it.
Metrics are accuracies from 0 to 1, means over seeds, _std between them.
"""

import argparse
from pathlib import Path

from stages.core import runtime
from stages.core.params import load
from stages.studies.params import PcaVsLda


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json, tables and the picture")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params = load("pca_vs_lda", PcaVsLda, args.params)
    from stages.studies.gaussians import compare

    compare(args.report, params)


if __name__ == "__main__":
    runtime.run(main)
