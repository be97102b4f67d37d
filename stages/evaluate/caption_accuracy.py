"""Do generated images show what their captions asked? Read by a caption checker, beside chance and real images.

Run:    semtok run caption_accuracy     (one of them: semtok run caption_accuracy@kmeans-onestep-scenes)
Expect: 3 x 500 samples of a generator in a minute. Per generator with condition: caption the share of samples that show
        the shape, the color, the position asked for; chance is what they would score with one another's captions.
"""

import argparse
from pathlib import Path

from stages.core import runtime
from stages.core.params import Machine, load, load_list


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="images artifact")
    parser.add_argument("--checker", type=Path, required=True, help="caption_checker artifact")
    parser.add_argument("--decoder", type=Path, required=True, help="decoder artifact")
    parser.add_argument("--samples", type=Path, required=True, help="folder with a samples artifact per generator")
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    generators, machine = load_list("generators", args.params), load("machine", Machine, args.params)

    from stages.evaluate.score_captions import score_captions

    score_captions(args.images, args.checker, args.decoder, args.samples, generators, args.report, machine)


if __name__ == "__main__":
    runtime.run(main)
