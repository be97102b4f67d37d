"""Train a generator that alternates between codes and images, on a frozen generator and a frozen decoder.

Run:    dvc repro alternating_generator   (one of them: dvc repro alternating_generator@kmeans-addp)
Expect: digits: 6 minutes on two cores; curves in reports/generator/<tokenizer>-<name>/.

Every name in `alternating_generators` has a section `generator.<name>` in params.yaml with its `kind`:
    addp    ADDP: masked codes given the others and the image that they give
"""

import argparse
from pathlib import Path

from stages.core import runtime
from stages.core.params import Machine, load
from stages.core.schemas import check_shares
from stages.generator.alternating_params import load_alternating


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="section of params.yaml below `generator`")
    parser.add_argument("--tokens", type=Path, required=True, help="tokens artifact")
    parser.add_argument("--frozen", type=Path, required=True, help="frozen_networks artifact")
    parser.add_argument("--out", type=Path, required=True, help="generator artifact to write")
    parser.add_argument("--report", type=Path, required=True, help="folder for curves")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load_alternating(args.name, args.params), load("machine", Machine, args.params)
    check_shares(f"generator.{args.name}.optim", params.optim)

    from stages.generator.addp_training import train

    train(args.tokens, args.frozen, args.out, args.report, args.name, params, machine)


if __name__ == "__main__":
    runtime.run(main, parallel=True)
