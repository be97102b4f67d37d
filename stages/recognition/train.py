"""Train one recognition task on the patch features of one network, and score it on val.

Run:    semtok run recognition       (one of them: semtok run recognition@segmentation-encoder)
Expect: scenes one to four minutes of one thread; in reports/probe/recognition/<task>-<network> metrics.json (accuracy,
        mean IoU with its ceiling, or AP), curves, and a picture of val images. Nothing by default; see
        presets/recognition.yaml.
"""

import argparse
from pathlib import Path

from stages.core import runtime
from stages.core.params import Machine, load
from stages.recognition.params import load_data, load_network, load_task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, help="section of studies/params.yaml below `recognition`")
    parser.add_argument("--name", required=True, help="section of studies/params.yaml below `recognition_network`")
    parser.add_argument("--images", type=Path, required=True, help="images artifact")
    parser.add_argument("--network", type=Path, required=True, help="recognition_network artifact")
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json, curves and pictures")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    task, network = load_task(args.task, args.params), load_network(args.name, args.params)
    data, machine = load_data(args.params), load("machine", Machine, args.params)

    from stages.recognition.training import Inputs, train

    train(Inputs(args.task, args.name, args.images, args.network, args.report), task, network, data, machine)


if __name__ == "__main__":
    runtime.run(main)
