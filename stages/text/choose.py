"""Write which text encoder each generator reads, and the digest of what it made of the captions.

Run:    dvc repro captions
Expect: under a second: a line of JSON per generator, {"text_encoder": name or "", "digest": of its artifact}.

DVC cannot choose a dependency by a value in params.yaml. Without this stage a new text encoder would retrain all
generators. The section `captions` maps names of generators to names of text encoders.
"""

import argparse
from pathlib import Path

from stages.core import artifact, runtime
from stages.core.params import load_list
from stages.text.chosen import check_chosen, load_chosen
from stages.text.params import PARAMS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help="folder with one text artifact per text encoder")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--params", type=Path, default=PARAMS)
    args = parser.parse_args()
    chosen = load_chosen(args.params)
    with artifact.new_artifact(args.out, "captions", {}) as folder:
        for generator in load_list("generators", args.params):
            name = check_chosen(generator, chosen, args.params)
            digest = artifact.digest(args.texts / name) if name else ""
            (folder / generator).write_bytes(artifact.with_checksum({"text_encoder": name, "digest": digest}))


if __name__ == "__main__":
    runtime.run(main)
