"""Write what one tokenizer depends on by its kind: its code, and the digest of the features where it reads any.

Run:    dvc repro tokenizer_inputs        (one of them: dvc repro tokenizer_inputs@vqgan)
Expect: under a second, four small files per tokenizer:
            fit        code that makes the tokenizer; the stage `codebook` depends on it
            load       code that encodes images with it; every later stage that uses the tokenizer depends on it
            features   digest of data/features, empty for kinds that read none; the stage `codebook` depends on it
            weights    digest of VGG-16's weights, empty without LPIPS; the stage `codebook` depends on it

DVC cannot choose a dependency by a value in params.yaml. Without this stage an edit of vqgan would rerun k-means, and
new features would retrain vqgan, which reads none.
"""

import argparse
from pathlib import Path

from stages.codebook.params import PARAMS, load_kind, load_params
from stages.core import artifact, runtime
from stages.core.code import merge_kinds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="which tokenizer")
    parser.add_argument("--features", type=Path, required=True, help="features artifact")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--params", type=Path, default=PARAMS)
    args = parser.parse_args()
    kind = load_kind(args.name, args.params)
    vgg16 = getattr(load_params(args.name, args.params), "lpips_vgg16", "")
    with artifact.new_artifact(args.out, "tokenizer_inputs", {"name": args.name}) as folder:
        merge_kinds([kind.fit], folder / "fit")
        merge_kinds([kind.load], folder / "load")
        (folder / "features").write_text(artifact.digest(args.features) if kind.reads_features else "")
        (folder / "weights").write_text(artifact.sha256(Path(vgg16)) if vgg16 else "")


if __name__ == "__main__":
    runtime.run(main)
