"""One cell of codebook size x dimension: k-means of principal components of the stored features.

Run:    semtok run ablation                (one cell: semtok run ablation@256-8)
Expect: digits: 10 s per cell on two cores, six cells; one kilobyte each.

Metrics on val: `usage` of the codes; `features`, the share of the features' variance that is lost; `class`, accuracy of
a linear probe on the bag of codes; `lookup`, PSNR of images decoded by replacing each code with its mean train patch.
_std by bootstrap over images.
"""

import argparse
from pathlib import Path

from stages.core import runtime
from stages.core.params import Machine, load
from stages.studies.params import AblationCell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-codes", type=int, required=True, help="codebook size")
    parser.add_argument("--dim", type=int, required=True, help="principal components kept; 0: all dimensions, no PCA")
    parser.add_argument("--images", type=Path, required=True, help="images artifact")
    parser.add_argument("--features", type=Path, required=True, help="features artifact, of those images")
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("ablation.cell", AblationCell, args.params), load("machine", Machine, args.params)
    from stages.studies.ablation_cell import Inputs, measure

    measure(Inputs(args.images, args.features, args.num_codes, args.dim), args.report, params, machine)


if __name__ == "__main__":
    runtime.run(main)
