"""FID of val images decoded from perturbed codes: pFID (RobustTok, 2025), how well a decoder bears wrong codes.

Run:    semtok set @presets/code_noise.yaml && semtok run code_noise_fid
Expect: nothing by default: code_noise_fid.decoders is empty. Digits: 10 s per tokenizer and decoder.

For each position the `delta` codes nearest to the continuous feature are found, the chosen code being the first. With
probability alpha the code becomes one of them, all equally likely, so that a share alpha (1 - 1 / delta) differs. Every
val image is perturbed (beta 1). Of several codebooks, codes of the same codebook are meant; for fsq, whose features are
bounded and rounded, the nearest points of its grid. The FID is to the val images themselves, as rFID, which alpha 0 or
delta 1 would give. metrics.json has

    rfid    of the codes as they are
    pfid    mean over the grid of alphas and delta_shares and over the seeds; _std is between seeds
    points  of every point of the grid, with the share of codes that `changed`
"""

import argparse
from pathlib import Path

from stages.core import runtime
from stages.core.params import Machine, load
from stages.evaluate.params import Inputs
from stages.studies.params import CodeNoiseGrid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="images artifact")
    parser.add_argument("--encoder", type=Path, required=True, help="encoder artifact: the embedded feature extractor")
    parser.add_argument("--classifier", type=Path, required=True, help="classifier artifact: another extractor")
    parser.add_argument("--reference", type=Path, required=True, help="reference artifact: features of the val images")
    parser.add_argument("--codebook", type=Path, required=True, help="codebook artifact")
    parser.add_argument("--decoder", type=Path, required=True, help="decoder artifact, trained on that codebook")
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("code_noise_fid.grid", CodeNoiseGrid, args.params), load("machine", Machine, args.params)
    from stages.studies.code_noise_scores import measure

    inputs = Inputs(args.images, args.encoder, args.classifier, args.reference, args.decoder)
    measure(inputs, args.codebook, args.report, params, machine)


if __name__ == "__main__":
    runtime.run(main)
