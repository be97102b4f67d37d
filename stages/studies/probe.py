"""Linear probes of the encoder's features, beside raw pixels and an encoder with random weights.

Run:    semtok run probe
Expect: digits: 20 s on two cores.

Where raw pixels are almost perfect, clean val images do not rank features. Two harder tests do: `augmented` val images
(one random affine map per image) and training with few labels per class. Metrics are accuracies on val, from 0
to 1; _std of few_* is between draws of the labeled images. `layers` has the accuracy on clean val images from every
layer of both networks, as `layer_probe` has it for generators.
"""

import argparse
from pathlib import Path

from stages.core import runtime
from stages.core.params import Machine, load
from stages.studies.params import Probe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="images artifact")
    parser.add_argument("--encoder", type=Path, required=True, help="encoder artifact")
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json and augmented.png")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("probe", Probe, args.params), load("machine", Machine, args.params)
    from stages.studies.encoder_probe import Inputs, probe

    probe(Inputs(args.images, args.encoder), args.report, params, machine)


if __name__ == "__main__":
    runtime.run(main)
