"""Metrics of a decoder at several numbers of decoding steps, on val images encoded and decoded again.

Run:    semtok run decoding_steps  (one of them: semtok run decoding_steps@kmeans-onestep)
Expect: digits: 10 s for onestep; minutes for a decoder with a number of steps, which has one row for each number.

Metrics of `steps_<number>`, or of `once` for a decoder without a number of steps:

    rfid[classifier], rfid[embedded]  Fréchet distance to the original images, with two feature extractors
    psnr_db, ssim                     means over images
    perceptual                        distance of the encoder's features, a training loss of decoders; mean over images
    class_accuracy                    share of images whose class the classifier predicts
    gflop_per_image                   10^9 multiplications and additions in matrix products and convolutions

If the decoder draws at random, each is a mean over decoding seeds, with _seed_std between them. _std is by bootstrap
over the images under the first seed; its draws are listed under `bootstrap`.
"""

import argparse
from pathlib import Path

from stages.core import runtime
from stages.core.params import Machine, load
from stages.studies.params import DecodingSteps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="images artifact")
    parser.add_argument("--encoder", type=Path, required=True, help="encoder artifact: perceptual and rfid[embedded]")
    parser.add_argument("--classifier", type=Path, required=True, help="classifier artifact: class_accuracy and rfid")
    parser.add_argument("--codebook", type=Path, required=True, help="codebook artifact")
    parser.add_argument("--decoder", type=Path, required=True, help="decoder artifact, trained on that codebook")
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json and steps.png")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("decoding_steps", DecodingSteps, args.params), load("machine", Machine, args.params)
    from stages.studies.decoding_variants import Inputs, measure

    inputs = Inputs(args.images, args.encoder, args.classifier, args.codebook, args.decoder)
    measure(inputs, args.report, params, machine)


if __name__ == "__main__":
    runtime.run(main)
