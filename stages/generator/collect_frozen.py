"""Copy what one alternating generator is built on: the generator and the decoder that its section names.

Run:    dvc repro frozen_networks         (one of them: dvc repro frozen_networks@kmeans-addp)
Expect: under a second: links to the files of both artifacts.

DVC cannot choose a dependency by a value in params.yaml. Without this stage every new generator or decoder would
retrain all alternating generators.
"""

import argparse
from pathlib import Path

from stages.core import artifact, runtime
from stages.generator.alternating_params import check_lists, load_alternating


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="section of params.yaml below `generator`")
    parser.add_argument("--tokenizer", required=True, help="whose codes")
    parser.add_argument("--generators", type=Path, required=True, help="folder with the generator artifacts")
    parser.add_argument("--decoders", type=Path, required=True, help="folder with the decoder artifacts")
    parser.add_argument("--out", type=Path, required=True, help="frozen_networks artifact to write")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    check_lists(args.params)
    params = load_alternating(args.name, args.params)
    sources = {"predictor": args.generators / f"{args.tokenizer}-{params.predictor}",
               "decoder": args.decoders / f"{args.tokenizer}-{params.decoder}"}  # fmt: skip
    config = {"name": args.name, "inputs": {name: artifact.digest(source) for name, source in sources.items()}}
    with artifact.new_artifact(args.out, "frozen_networks", config) as folder:
        for name, source in sources.items():
            artifact.copy(source, folder / name)


if __name__ == "__main__":
    runtime.run(main)
