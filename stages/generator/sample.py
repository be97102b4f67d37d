"""Draw codes from a trained generator, by class as samples.draws.labels says or by captions, for several seeds.

Run:    dvc repro samples
Expect: digits: 3 x 500 samples in seconds. Changing `samples` reruns sampling and evaluation, no training.
"""

import argparse
from pathlib import Path

from stages.core import artifact, runtime
from stages.core.params import Machine, load
from stages.generator.alternating_params import load_sampling
from stages.generator.params import SampleDraws
from stages.text.chosen import read_chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generator", type=Path, required=True, help="generator artifact")
    parser.add_argument("--captions", type=Path, help="which text encoder it reads, of the stage captions")
    parser.add_argument("--text", type=Path, help="folder with one text artifact per text encoder")
    parser.add_argument("--out", type=Path, required=True, help="samples artifact to write")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    config = artifact.read_config(args.generator, "generator")
    draws, machine = load("samples.draws", SampleDraws, args.params), load("machine", Machine, args.params)
    sampling = load_sampling(config["name"], config["kind"], args.params)

    from stages.generator.samples import draw_samples

    text = read_chosen(args.captions, args.text) if args.captions else None  # alternating generators read none
    draw_samples(args.generator, args.out, draws, sampling, machine, text)


if __name__ == "__main__":
    runtime.run(main, parallel=True)
