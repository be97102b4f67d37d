"""The whole data set -> codes: one array per split, uint16 or, above 65,536 codes, uint32; train has augmented views.

Run:    dvc repro tokens          (more processes: torchrun --nproc-per-node=8 -m stages.tokens.encode …)
Expect: digits: 8 views of 1,500 images, 1.6 MB, 20 s on two cores. ImageNet: 1.28 M x 256 codes = 656 MB per view.

Finished parts survive a kill: the same command continues after the last one.
"""

import argparse
from pathlib import Path

from stages.core import runtime
from stages.core.params import Machine, load
from stages.tokens.params import Params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="images artifact")
    parser.add_argument("--codebook", type=Path, required=True, help="codebook artifact")
    parser.add_argument("--out", type=Path, required=True, help="tokens artifact to write")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("tokens", Params, args.params), load("machine", Machine, args.params)

    from stages.tokens.writer import write_tokens

    write_tokens(args.images, args.codebook, args.out, params, machine)


if __name__ == "__main__":
    runtime.run(main, parallel=True)
