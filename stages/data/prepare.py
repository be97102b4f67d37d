"""Images of a source -> WebDataset shards of square RGB images, split into train and val, with an index.

Run:    python -m stages.data.prepare --out data/images
Expect: digits: 1,500 + 297 images of 32 px, 7 MB, seconds. 20,000 scenes of 32 px: 165 MB, half a minute on two cores.
        ImageNet at 256 px as jpg: 45 GB, about an hour on 16 cores.

A source folder is a dependency in dvc.yaml: DVC reads its files once and then compares names, sizes and times.
"""

import argparse
from pathlib import Path

from stages.core import runtime
from stages.core.params import Machine, load
from stages.data.params import Params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="images artifact to write")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("data", Params, args.params), load("machine", Machine, args.params)
    for line in params.unread():
        print(f"note: {line}", flush=True)

    from stages.data.writer import write_images

    write_images(args.out, params, machine)


if __name__ == "__main__":
    runtime.run(main, parallel=True)
