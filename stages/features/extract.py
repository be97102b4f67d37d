"""Images -> patch features of one block of the frozen encoder, float16 [N, D] per image, in WebDataset shards.

Run:    dvc repro features        (more processes: torchrun --nproc-per-node=8 -m stages.features.extract …)
Expect: digits: 29 MB, 10 s on two cores. ImageNet, every tenth train image, DINOv2-B: 70 GB, about 10 minutes on a GPU.

Finished shards survive a kill: the same command continues after the last one.
"""

import argparse
from pathlib import Path

from stages.core import runtime
from stages.core.params import Machine, load
from stages.features.params import Params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="images artifact")
    parser.add_argument("--encoder", type=Path, required=True, help="encoder artifact")
    parser.add_argument("--out", type=Path, required=True, help="features artifact to write")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("features", Params, args.params), load("machine", Machine, args.params)

    from stages.features.writer import write_features

    write_features(args.images, args.encoder, args.out, params, machine)


if __name__ == "__main__":
    runtime.run(main, parallel=True)
