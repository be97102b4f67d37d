"""Train one decoder of any kind for the codes of a frozen tokenizer.

Run:    dvc repro decoder       (one of them: dvc repro decoder@kmeans-onestep; on four GPUs: NPROC=4 dvc repro decoder)
Expect: digits: onestep 2 to 4 minutes on two cores, render up to 13; curves, metrics and pictures in
        reports/decoder/<tokenizer>-<decoder>/.

Every name in `decoders` has a section `decoder.<name>` in params.yaml, whose `kind` is one of
    onestep    a convolutional decoder with pixel, perceptual and GAN losses
    diffusion  a flow from noise to pixels in a few steps, conditioned on the codes (epsilon-VAE)
    render     a transformer from the codes to those of a pixel tokenizer with a frozen decoder (DiGIT's stage 2)
"""

import argparse
from pathlib import Path

from stages.core import artifact, runtime
from stages.core.code import import_kind
from stages.core.params import Machine, load
from stages.decoder.params import KINDS, PARAMS, Inputs, load_params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="name of the decoder")
    parser.add_argument("--images", type=Path, required=True, help="images artifact")
    parser.add_argument("--encoder", type=Path, required=True, help="encoder artifact, for the perceptual loss")
    parser.add_argument("--codebook", type=Path, required=True, help="codebook artifact")
    parser.add_argument("--pixel-tokenizer", type=Path, required=True, help="pixel_tokenizer artifact")
    parser.add_argument("--out", type=Path, required=True, help="decoder artifact to write")
    parser.add_argument("--report", type=Path, required=True, help="folder for curves and pictures")
    parser.add_argument("--params", type=Path, default=PARAMS)
    args = parser.parse_args()
    params, machine = load_params(args.name, args.params), load("machine", Machine, args.params)
    artifacts = (args.images, args.encoder, args.codebook, args.pixel_tokenizer)
    inputs = Inputs(args.name, *artifacts, args.out, args.report)
    for needed in artifacts:
        artifact.find(needed)
    artifact.check_made_from(args.codebook, f"codebook@{args.codebook.name}", images=args.images, encoder=args.encoder)
    module = import_kind(KINDS[params.kind].fit)
    module.check(inputs, params)
    module.fit(inputs, params, machine)


if __name__ == "__main__":
    runtime.run(main, parallel=True)
