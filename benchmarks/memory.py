"""Peak memory of a streamed codebook on features, and on the same features several times over.

Run:    uv run python benchmarks/memory.py        (after: uv run dvc repro features)
Expect: peak resident memory of `stages.codebook.fit` for each method, at 1 and 8 times the digits' 96,000 vectors.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ruamel.yaml import YAML

from stages.core import artefact, shards

ROOT = Path(__file__).parents[1]


def repeated(features: Path, times: int, out: Path) -> None:
    """A features artefact with every train shard so many times, as links."""
    config = artefact.read_config(features, "features")
    entries = config["splits"]["train"]["shards"]
    more = [{**entry, "name": f"{n}-{entry['name']}"} for n in range(times) for entry in entries]
    train = {"images": times * config["splits"]["train"]["images"], "shards": more}
    facts = {key: value for key, value in config.items() if key not in ("kind", "files")}
    with artefact.new_artefact(out, "features", {**facts, "splits": {**config["splits"], "train": train}}) as folder:
        for n in range(times):
            for entry in entries:
                os.rename(shards.place(features.absolute(), folder, entry["name"]), folder / f"{n}-{entry['name']}")
        for entry in config["splits"]["val"]["shards"]:
            shards.place(features.absolute(), folder, entry["name"])


def write_params(path: Path, method: str) -> None:
    """params.yaml with one pass of a streamed k-means."""
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    params["codebook"]["kmeans"].update(method=method, iterations=1)
    with open(path, "w") as file:
        YAML(typ="safe").dump(params, file)


def peak_mb(features: Path, params: Path, folder: Path) -> float:
    """Peak resident memory of the stage's process, in MB of 10^6 bytes."""
    command = [sys.executable, "-m", "stages.codebook.fit", "--name", "kmeans", "--features", str(features)]
    command += ["--images", "data/images", "--encoder", "data/encoder", "--params", str(params)]
    command += ["--out", str(folder / "codebook"), "--report", str(folder / "report")]
    with open(os.devnull, "w") as nowhere:
        child = subprocess.Popen(command, cwd=ROOT, stdout=nowhere, stderr=nowhere)
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, command
    return usage.ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, default=Path("data/features"))
    parser.add_argument("--methods", nargs="+", default=["lloyd", "minibatch", "sample"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=ROOT / "scratch") as folder:
        root = Path(folder)
        for times in (1, 8):
            repeated(args.features, times, root / f"features-{times}")
            for method in args.methods:
                write_params(root / "params.yaml", method)
                peak = peak_mb(root / f"features-{times}", root / "params.yaml", root)
                print(f"{method}, {times} x the data: {peak:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
