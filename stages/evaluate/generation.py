"""Generated samples -> metrics with their protocol and pictures, in a report folder.

Run:    dvc repro generation      (one of them: dvc repro generation@kmeans-onestep)
Expect: digits, 2 generators x 3 seeds x 500 samples: 45 seconds on two cores, 4 MB. Class accuracy, FID, KID, IS,
        precision and recall against train images, near copies of them; `val` scores as many real val images.
"""

import argparse
from pathlib import Path

from stages.core import runtime
from stages.core.params import Machine, load, load_list
from stages.evaluate.params import GenerationParams, Inputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="images artifact")
    parser.add_argument("--encoder", type=Path, required=True, help="encoder artifact: the embedded feature extractor")
    parser.add_argument("--classifier", type=Path, required=True, help="classifier artifact: another extractor")
    parser.add_argument("--reference", type=Path, required=True, help="reference artifact: real images")
    parser.add_argument("--decoder", type=Path, required=True, help="decoder artifact")
    parser.add_argument("--samples", type=Path, required=True, help="folder with a samples artifact per generator")
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json and pictures/")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("generation", GenerationParams, args.params), load("machine", Machine, args.params)
    listed = [load_list("generators", args.params), load_list("alternating_generators", args.params, empty=True)]
    generators = [name for names in listed for name in names]

    from stages.evaluate.score_generation import score_generators

    inputs = Inputs(args.images, args.encoder, args.classifier, args.reference, args.decoder)
    score_generators(inputs, args.samples, generators, args.report, params, machine)


if __name__ == "__main__":
    runtime.run(main, parallel=True)
