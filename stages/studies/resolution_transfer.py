"""PSNR and SSIM of convolutional tokenizers and decoders on images larger than those they were trained on.

Run:    semtok run resolution_transfer  (one of them: semtok run resolution_transfer@vqgan-onestep)
Expect: digits: half a minute. psnr_db and ssim of `decoder` and of the tokenizer's own `joint` decoder at scale_1 (the
        training size), scale_2 …; _std by bootstrap over images. `skipped` gives the reason where nothing is measured.

Scenes are rendered again at the larger size, with real detail; images of other sources are enlarged and gain no detail.
Transformers are skipped: their position embeddings exist for the training size only.
"""

import argparse
from pathlib import Path

from stages.core import runtime
from stages.core.params import Machine, load
from stages.studies.params import ResolutionTransfer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="images artifact")
    parser.add_argument("--codebook", type=Path, required=True, help="codebook artifact")
    parser.add_argument("--decoder", type=Path, required=True, help="decoder artifact, trained on that codebook")
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json and pictures/")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params = load("resolution_transfer", ResolutionTransfer, args.params)
    machine = load("machine", Machine, args.params)
    from stages.studies.multiscale import Inputs, measure

    measure(Inputs(args.images, args.codebook, args.decoder), args.report, params, machine)


if __name__ == "__main__":
    runtime.run(main)
