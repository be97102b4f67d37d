"""The captions of the images as every text encoder in `text_encoders` sees them: ids of tokens, or frozen features.

Run:    dvc repro text                      (one of them: dvc repro text@words; several processes: NPROC=4 dvc …)
Expect: a vocabulary of 20,000 scenes in seconds; 16 tokens of 768 fp16 values take 25 kB per caption. Finished shards
        of features survive a kill: the same command continues after the last one.

Every name in `text_encoders` has a section `text.<name>` in params.yaml with its `kind`:
    vocabulary   trained on the train captions; the generator learns an embedding per entry
    transformer  frozen features of a local Hugging Face text model (T5, CLIP); needs `uv sync --group text`
"""

import argparse
from pathlib import Path

from stages.core import runtime
from stages.core.params import Machine, load
from stages.text.params import PARAMS, load_params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="section of params.yaml below `text`")
    parser.add_argument("--images", type=Path, required=True, help="images artifact")
    parser.add_argument("--out", type=Path, required=True, help="text artifact to write")
    parser.add_argument("--params", type=Path, default=PARAMS)
    args = parser.parse_args()
    params, machine = load_params(args.name, args.params), load("machine", Machine, args.params)

    from stages.text.writer import write_text

    write_text(args.name, args.images, args.out, params, machine)


if __name__ == "__main__":
    runtime.run(main, parallel=True)
