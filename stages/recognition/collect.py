"""Copy what one network for recognition consists of: the encoder, or a generator and the tokenizer of its codes.

Run:    semtok run recognition_network        (one of them: semtok run recognition_network@encoder)
Expect: under a second: links to the files of the artifacts.

DVC cannot choose a dependency by a value in params.yaml. Without this stage every new generator would train all tasks
on all networks again.
"""

import argparse
from pathlib import Path

from stages.core import artifact, runtime
from stages.recognition.params import (
    EncoderNetwork,
    GeneratorNetwork,
    Network,
    Random,
    check_lists,
    load_data,
    load_network,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="section of studies/params.yaml below `recognition_network`")
    parser.add_argument("--encoder", type=Path, required=True, help="encoder artifact")
    parser.add_argument("--codebooks", type=Path, required=True, help="folder with the codebook artifacts")
    parser.add_argument("--generators", type=Path, required=True, help="folder with the generator artifacts")
    parser.add_argument("--out", type=Path, required=True, help="recognition_network artifact to write")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    check_lists(args.params)
    params, alternating = load_network(args.name, args.params), Path(load_data(args.params).alternating)
    sources = sources_of(params, args.encoder, args.codebooks, args.generators, alternating)
    config = {"name": args.name, "inputs": {name: artifact.digest(source) for name, source in sources.items()}}
    with artifact.new_artifact(args.out, "recognition_network", config) as folder:
        for name, source in sources.items():
            artifact.copy(source, folder / name)


def sources_of(params: Network, encoder: Path, codebooks: Path, generators: Path, alternating: Path) -> dict[str, Path]:
    """{name in the artifact: artifact to copy}."""
    if isinstance(params, EncoderNetwork | Random):
        return {"encoder": encoder}
    if not isinstance(params, GeneratorNetwork):
        return {}
    pair = f"{params.tokenizer}-{params.generator}"
    if params.kind == "alternating":
        return {"generator": alternating / pair}
    return {"generator": generators / pair, "codebook": codebooks / params.tokenizer}


if __name__ == "__main__":
    runtime.run(main)
