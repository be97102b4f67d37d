"""What the codes of a tokenizer mean: patches that share a code, t-SNE, linear probes of codes and code vectors.

Run:    semtok run code_analysis
Expect: digits: 20 s per tokenizer on two cores; gallery.png, tsne.png and map/ 0.6 MB together.

Probes are trained on train and tested on val. `class`: accuracy of an image's class. `color`: R² of a patch's mean
color, 1 for a perfect prediction, 0 for one color for all. `lookup`: PSNR of val images decoded by replacing each code
with its mean train patch, which is what a decoder without any context would reach. _std by bootstrap over val images.
"""

import argparse
from pathlib import Path

from stages.core import runtime
from stages.core.params import Machine, load
from stages.studies.params import CodeAnalysis


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="images artifact")
    parser.add_argument("--codebook", type=Path, required=True, help="codebook artifact")
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json and pictures")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("code_analysis", CodeAnalysis, args.params), load("machine", Machine, args.params)
    from stages.studies.code_statistics import Inputs, analyze

    analyze(Inputs(args.images, args.codebook), args.report, params, machine)


if __name__ == "__main__":
    runtime.run(main)
