"""Train a small convolutional classifier on the real train images and their classes.

Run:    dvc repro classifier
Expect: digits half a minute, scenes 2 minutes; val_accuracy in reports/classifier/metrics.json, near 1. Accuracy on
        real images bounds what `class_accuracy` of generated images can show. Without classes there is no classifier.
"""

import argparse
from pathlib import Path

from stages.core import runtime
from stages.core.params import Machine, load
from stages.evaluate.params import ClassifierParams


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="images artifact")
    parser.add_argument("--out", type=Path, required=True, help="classifier artifact to write")
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("classifier", ClassifierParams, args.params), load("machine", Machine, args.params)

    from stages.evaluate.classifier_training import train_classifier

    train_classifier(args.images, args.out, args.report, params, machine)


if __name__ == "__main__":
    runtime.run(main)
