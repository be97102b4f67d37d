"""Write the digest of a file of weights that the section `weights` of params.yaml names.

Run:    dvc repro weights        (one of them: dvc repro weights@lite0)
Expect: seconds: a line with the file's sha256. Stages that read weights depend on these lines, so that a file with
        other content reruns them, wherever it lies, and a moved one does not.
"""

import argparse
from pathlib import Path

from stages.core import UserError, artifact, runtime
from stages.core.params import load_value
from stages.encoder.params import check_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="key of the section `weights`")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    path = load_value(f"weights.{args.name}", args.params)
    try:
        check_weights(f"weights.{args.name}", path)
    except ValueError as error:
        raise UserError(f"{args.params}: {error}") from None
    args.out.parent.mkdir(parents=True, exist_ok=True)
    artifact.write_atomically(args.out, f"{artifact.sha256(Path(path))}\n".encode())


if __name__ == "__main__":
    runtime.run(main)
