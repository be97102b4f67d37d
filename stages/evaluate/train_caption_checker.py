"""Train a network that reads from real train images what their captions say: shape, color, position of the main object.

Run:    semtok run caption_checker
Expect: scenes 3 minutes; accuracy on val per attribute in reports/caption_checker/<name>/metrics.json, near 1. It
        bounds what the caption accuracy of generated images can show. Only captions of rendered scenes can be read.
"""

import argparse
from pathlib import Path

from stages.core import runtime
from stages.core.params import Machine, load
from stages.evaluate.params import load_checker_params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="section of studies/params.yaml below `caption_checker`")
    parser.add_argument("--images", type=Path, required=True, help="images artifact")
    parser.add_argument("--out", type=Path, required=True, help="caption_checker artifact to write")
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load_checker_params(args.name, args.params), load("machine", Machine, args.params)

    from stages.evaluate.caption_checker_training import train_checker

    train_checker(args.images, args.out, args.report, params, machine)


if __name__ == "__main__":
    runtime.run(main)
