"""Peak memory of a stage on the digits, and on the same images several times over.

Run:    OMP_NUM_THREADS=1 uv run python benchmarks/memory.py        (after: uv run dvc repro features codebook)
Expect: peak resident memory of the process of each stage, at 1, 4 and 16 times the 1,500 train images, and bytes per
        further image; some minutes. `--times 1 512 --stages data`: 10^5 and more small files.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from stages.core import artifact
from stages.data.tar_index import TarIndex

ROOT = Path(__file__).parents[1]
PARAMS = ROOT / "params.yaml"
RUN = """
import re, runpy, sys
sys.argv[:] = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
print("peak", re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""
COMMANDS = {
    "data": "stages.data.prepare",
    "features": "stages.features.extract --images images --encoder DATA/encoder",
    "tokens": "stages.tokens.encode --images images --codebook book",
}
CODEBOOK = (
    "stages.codebook.fit --name kmeans --images DATA/images --encoder DATA/encoder --features features --report report"
)
METHODS = ("lloyd", "minibatch", "sample")


def repeated(source: Path, type_: str, times: int, out: Path) -> None:
    """An artifact of shards with every train shard so many times, as links."""
    config = artifact.read_config(source, type_)
    train = config["splits"]["train"]
    more = [{**entry, "name": f"{n}-{entry['name']}"} for n in range(times) for entry in train["shards"]]
    splits = {**config["splits"], "train": {**train, "images": times * train["images"], "shards": more}}
    index = np.tile(np.load(source / "train.index.npy"), times)
    index["shard"] += np.repeat(np.arange(times), train["images"]) * len(train["shards"])
    with artifact.new_artifact(out, type_, facts_of(config) | {"splits": splits}) as folder:
        for entry in more:
            artifact.link(source / entry["name"].partition("-")[2], folder / entry["name"])
        for name in (name for name in config["files"] if not name.startswith("train")):
            artifact.link(source / name, folder / name)
        np.save(folder / "train.index.npy", index)
        if type_ == "images":
            np.save(folder / "train.labels.npy", np.tile(np.load(source / "train.labels.npy"), times))


def facts_of(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json without what `new_artifact` adds."""
    return {key: value for key, value in config.items() if key not in ("artifact", "files")}


def made_from(book: Path, images: Path, out: Path) -> None:
    """A copy of a codebook artifact that names other images as its own."""
    config = artifact.read_config(book, "codebook")
    inputs = {**config["inputs"], "images": artifact.digest(images)}
    with artifact.new_artifact(out, "codebook", {**facts_of(config), "inputs": inputs}) as folder:
        artifact.copy(book, folder)
        (folder / artifact.CONFIG).unlink()


def draw_folder(images: Path, times: int, classes: int, out: Path) -> None:
    """The train images as files, each so many times by links, in class folders."""
    facts = artifact.read_config(images, "images")
    index = TarIndex(images, facts, "train")
    for number in range(classes):
        (out / f"{number:04d}").mkdir(parents=True)
    for number, key in enumerate(index.keys()):
        first = out / f"{key}.png"
        first.write_bytes(index.read(number, facts["format"]))
        for n in range(times):
            os.link(first, out / f"{(number * times + n) % classes:04d}" / f"{n}-{key}.png")
        first.unlink()


def write_params(path: Path, changes: dict[str, dict[str, Any]]) -> None:
    """params.yaml with these changes, two levels deep."""
    params = YAML(typ="safe").load(PARAMS)
    for section, values in changes.items():
        params[section] |= values
    with open(path, "w") as file:
        YAML(typ="safe").dump(params, file)


def peak_bytes(line: str, folder: Path, data: Path) -> int:
    """Peak resident memory of the process of a stage that runs in `folder`."""
    command = [sys.executable, "-c", RUN, *line.replace("DATA", str(data)).split(), "--out", "out"]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"^peak (\d+)", done.stdout, re.MULTILINE)
    assert found, done.stdout
    return int(found[1]) * 1024


def prepare(stage: str, times: int, classes: int, folder: Path, data: Path) -> str:
    """Fill `folder` with what the stage needs at so many times the images; what follows `python -m`."""
    changes: dict[str, dict[str, Any]] = {"data": {"source": "folder", "folder": "pictures"}, "tokens": {"views": 1}}
    if stage == "data":
        draw_folder(data / "images", times, classes, folder / "pictures")
    elif stage in METHODS:
        repeated(data / "features", "features", times, folder / "features")
        kmeans = YAML(typ="safe").load(PARAMS)["codebook"]["kmeans"]
        changes["codebook"] = {"kmeans": {**kmeans, "method": stage, "iterations": 1}}
    else:
        repeated(data / "images", "images", times, folder / "images")
        made_from(data / "codebook/kmeans", folder / "images", folder / "book")
    write_params(folder / "params.yaml", changes)
    return COMMANDS.get(stage, CODEBOOK)


def train_images(data: Path) -> int:
    """How many there are once."""
    return artifact.read_config(data / "images", "images")["splits"]["train"]["images"]


def measure(stage: str, times: list[int], classes: int, data: Path) -> list[int]:
    """Print and return the peaks."""
    peaks = []
    train = train_images(data)
    for count in times:
        with tempfile.TemporaryDirectory() as place:
            line = prepare(stage, count, classes, folder := Path(place), data)
            peaks.append(peak_bytes(line, folder, data))
        more, further = peaks[-1] - peaks[0], (count - times[0]) * train
        each = (
            f", {peaks[-1] / peaks[0]:.3f} of the first, {more / further:,.0f} bytes per further image" if more else ""
        )
        print(f"{stage}, {count * train:,} images: {peaks[-1] / 1e6:.0f} MB{each}", flush=True)
    return peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--stages", nargs="+", choices=[*COMMANDS, *METHODS], default=[*COMMANDS, *METHODS])
    parser.add_argument("--times", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--classes", type=int, default=10, help="folders that the stage data reads")
    args = parser.parse_args()
    for stage in args.stages:
        measure(stage, args.times, args.classes, args.data.resolve())


if __name__ == "__main__":
    main()
