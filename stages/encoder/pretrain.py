"""Pretrain an embedded encoder on the train images: SimCLR with a dense term, without labels or supervised.

Run:    uv run semtok set @presets/scenes.yaml && uv run dvc repro data     (or the params of the digits)
        uv run dvc repro --force --single-item pretrain@scenes
        (frozen in dvc.yaml, because its few MB are in git)
Expect: 15 minutes on two cores for the digits, 20 on a busy one for either encoder of the scenes, 1.1 to 3.3 MB.
"""

import argparse
from pathlib import Path

from stages.core import runtime
from stages.core.params import Machine, load
from stages.encoder.params import PretrainParams


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="section of pretrain.yaml")
    parser.add_argument("--images", type=Path, required=True, help="images artifact")
    parser.add_argument("--out", type=Path, required=True, help="encoder artifact to write")
    parser.add_argument("--report", type=Path, required=True, help="folder for the training curves")
    parser.add_argument("--pretrain", type=Path, default=Path("pretrain.yaml"))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="for the section machine")
    args = parser.parse_args()
    params, machine = load(args.name, PretrainParams, args.pretrain), load("machine", Machine, args.params)

    from stages.encoder.pretraining import Inputs, check, pretrain

    inputs = Inputs(args.name, args.images, args.out, args.report)
    check(inputs, params)
    pretrain(inputs, params, machine)


if __name__ == "__main__":
    runtime.run(main)
