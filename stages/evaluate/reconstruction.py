"""Reconstructed val images -> metrics with their protocol and a picture, in a report folder.

Run:    dvc repro reconstruction      (one of them: dvc repro reconstruction@kmeans-onestep)
Expect: digits, 297 images: 15 seconds on two cores, 1 MB. PSNR, SSIM, class accuracy, rFID per feature extractor,
        code usage, distances to the nearest training images; `val`: accuracy and distances of real images.
"""

import argparse
from pathlib import Path

from stages.core import runtime
from stages.core.params import Machine, load
from stages.evaluate.params import Inputs, ReconstructionParams


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="images artifact")
    parser.add_argument("--encoder", type=Path, required=True, help="encoder artifact: the embedded feature extractor")
    parser.add_argument("--classifier", type=Path, required=True, help="classifier artifact: another extractor")
    parser.add_argument("--reference", type=Path, required=True, help="reference artifact: real images")
    parser.add_argument("--codebook", type=Path, required=True, help="codebook artifact")
    parser.add_argument("--decoder", type=Path, required=True, help="decoder artifact")
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json and pictures/")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("reconstruction", ReconstructionParams, args.params), load("machine", Machine, args.params)

    from stages.evaluate.score_reconstruction import score_tokenizer

    inputs = Inputs(args.images, args.encoder, args.classifier, args.reference, args.decoder)
    score_tokenizer(inputs, args.codebook, args.report, params, machine)


if __name__ == "__main__":
    runtime.run(main, parallel=True)
