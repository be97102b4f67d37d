"""Train a generator on codes, with and without what conditions it in one model: classes or captions.

Run:    dvc repro generator                 (one of them: dvc repro generator@kmeans-ar; on four GPUs: NPROC=4 dvc …)
Expect: digits: 1 to 2 minutes each on two cores; train and val likelihood in
        reports/generator/<tokenizer>-<name>/.

Every name in `generators` has a section `generator.<name>` in params.yaml with its `kind` and optimization:
    ar           autoregressive: the next code given all before it
    ar_bits      the same with a head that predicts the bits of a code
    masked       MaskGIT: the masked codes given the others
    parallel_ar  autoregressive in a random order, several codes per step
"""

import argparse
from pathlib import Path

from stages.core import runtime
from stages.core.params import Machine, load
from stages.core.schemas import check_shares
from stages.generator.params import load_params
from stages.text.chosen import read_chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="section of params.yaml below `generator`")
    parser.add_argument("--tokens", type=Path, required=True, help="tokens artifact")
    parser.add_argument("--codebook", type=Path, required=True, help="codebook artifact, for near codes")
    parser.add_argument(
        "--captions", type=Path, required=True, help="which text encoder it reads, of the stage captions"
    )
    parser.add_argument("--text", type=Path, required=True, help="folder with one text artifact per text encoder")
    parser.add_argument("--out", type=Path, required=True, help="generator artifact to write")
    parser.add_argument("--report", type=Path, required=True, help="folder for curves")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load_params(args.name, args.params), load("machine", Machine, args.params)
    check_shares(f"generator.{args.name}", params.training)

    from stages.generator.training import train

    text = read_chosen(args.captions, args.text)
    train(args.tokens, args.codebook, args.out, args.report, params, machine, text)


if __name__ == "__main__":
    runtime.run(main, parallel=True)
