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

import numpy as np
from ruamel.yaml import YAML

from stages.core import artifact

ROOT = Path(__file__).parents[1]


def repeated(features: Path, times: int, out: Path) -> None:
    """A features artifact with every train shard so many times, as links."""
    config = artifact.read_config(features, "features")
    train, val = (config["splits"][split] for split in ("train", "val"))
    more = [{**entry, "name": f"{n}-{entry['name']}"} for n in range(times) for entry in train["shards"]]
    splits = {"train": {"images": times * train["images"], "shards": more}, "val": val}
    facts = {key: value for key, value in config.items() if key not in ("artifact", "files")}
    index = np.load(features / "train.index.npy")
    copies = [index.copy() for _ in range(times)]
    for n, copy in enumerate(copies):
        copy["shard"] += n * len(train["shards"])
    with artifact.new_artifact(out, "features", {**facts, "splits": splits}) as folder:
        for entry in more:
            os.link(features / entry["name"].partition("-")[2], folder / entry["name"])
        for name in ("val.index.npy", *(entry["name"] for entry in val["shards"])):
            os.link(features / name, folder / name)
        np.save(folder / "train.index.npy", np.concatenate(copies))


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
