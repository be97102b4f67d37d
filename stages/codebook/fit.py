"""Make one tokenizer: a codebook artifact with everything that turns images into codes.

Run:    dvc repro codebook                (one of them: dvc repro codebook@vqgan)
Expect: digits: k-means 20 s, cluster half a minute, vqkd 2 minutes, vqgan and fsq 2 to 4 minutes each on two cores with
        bf16 instructions, twice that without.

Every name in `tokenizers` has a section `codebook.<name>` in params.yaml, whose `kind` is one of
    kmeans   faiss k-means on patch features of a frozen encoder (DiGIT)
    cluster  online clustering of the same features, dead codes revived (Cluster of the VQ-KD paper)
    vqkd     an encoder trained from scratch whose codes predict the frozen encoder's features (VQ-KD)
    vqgan    convolutional autoencoder with a vector-quantized bottleneck, L1 + perceptual + GAN
    fsq      the same network with finite scalar quantization
"""

import argparse
from pathlib import Path

from stages.codebook.params import KINDS, PARAMS, Inputs, load_params
from stages.core import UserError, artifact, runtime
from stages.core.code import import_kind
from stages.core.params import Machine, load


def check_features(inputs: Inputs, expected: Path) -> None:
    """`UserError` if the features are missing, or others than those on which DVC lets this tokenizer depend."""
    digest, named = artifact.digest(inputs.features), expected / "features"
    if not named.is_file() or named.read_bytes() != digest.encode():
        again = f"Run `dvc repro tokenizer_inputs@{inputs.name}`."
        raise UserError(f"{inputs.features}: not the features that {named} names. {again}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="which tokenizer")
    parser.add_argument("--images", type=Path, required=True, help="images artifact")
    parser.add_argument("--encoder", type=Path, required=True, help="encoder artifact")
    parser.add_argument("--features", type=Path, required=True, help="features artifact of that encoder")
    parser.add_argument("--inputs", type=Path, help="folder of the stage tokenizer_inputs: which features are expected")
    parser.add_argument("--out", type=Path, required=True, help="codebook artifact to write")
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json and curves")
    parser.add_argument("--params", type=Path, default=PARAMS)
    args = parser.parse_args()
    params, machine = load_params(args.name, args.params), load("machine", Machine, args.params)
    inputs = Inputs(args.name, args.images, args.encoder, args.features, args.out, args.report)
    kind = KINDS[params.kind]
    for needed in (inputs.images, inputs.encoder, *[inputs.features] * kind.reads_features):
        artifact.find(needed)
    if kind.reads_features and args.inputs:
        check_features(inputs, args.inputs)
    if kind.reads_features:
        artifact.check_made_from(inputs.features, "features", images=inputs.images, encoder=inputs.encoder)
    module = import_kind(kind.fit)
    module.check(inputs, params)
    module.fit(inputs, params, machine)


if __name__ == "__main__":
    runtime.run(main, parallel=True)
