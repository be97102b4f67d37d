"""Compare decoders, each trained from several seeds; the spread is between the trainings.

Run:    OMP_NUM_THREADS=1 uv run python benchmarks/trainings.py --tokenizers kmeans vq_rate --decoders onestep diffusion
        (after: uv run dvc repro codebook pixel_tokenizer classifier, with these tokenizers and decoders in params.yaml)
Expect: a line per finished training, each about as long as the stage `decoder`; then a table, mean ± deviation over
        the seeds of each metric of the study `decoding_steps`. Finished trainings are kept in --work: a second call
        continues from there, unless params.yaml has changed; delete it when an artifact has changed.
"""

import argparse
import io
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from ruamel.yaml import YAML

from stages.core.params import parts_of

DATA = Path("data").absolute()
METRICS = ("rfid[classifier]", "rfid[embedded]", "psnr_db", "perceptual", "class_accuracy")

Metrics = dict[str, dict[str, float]]


def measured(tokenizer: str, decoder: str, seed: int, work: Path) -> Metrics:
    """{steps: metrics} of one training, from `work` where it is done already."""
    folder = work / f"{tokenizer}-{decoder}-{seed}"
    metrics = folder / "decoding_steps/metrics.json"
    params = folder / "params.yaml"
    wanted = seeded("\n".join(map(Path.read_text, parts_of(Path("params.yaml")))), decoder, seed)
    if not (metrics.exists() and params.read_text() == wanted):
        folder.mkdir(parents=True, exist_ok=True)
        metrics.unlink(missing_ok=True)
        params.write_text(wanted)
        made = {"--images": "images", "--encoder": "encoder", "--codebook": f"codebook/{tokenizer}"}
        common = [part for option, path in made.items() for part in (option, DATA / path)]
        pixel = ["--pixel-tokenizer", DATA / "pixel_tokenizer" / decoder]
        stage(folder, "decoder.train", "--name", decoder, *common, *pixel, "--out", "decoder", "--report", "curves")
        study = ["--classifier", DATA / "classifier", "--decoder", "decoder", "--report", "decoding_steps"]
        stage(folder, "studies.decoding_steps", *common, *study)
        print(f"{folder.name}: done", flush=True)
    found = json.loads(metrics.read_text())
    return {key: values for key, values in found.items() if key == "once" or key.startswith("steps_")}


def seeded(text: str, decoder: str, seed: int) -> str:
    """A params file with the seed of one decoder; as plain data, since a section may take over that of another."""
    params, written = YAML(typ="safe").load(text), io.StringIO()
    section = params["decoder"][decoder]
    section["optim"] = {**section["optim"], "seed": seed}
    YAML(typ="safe").dump(params, written)
    return written.getvalue()


def stage(folder: Path, module: str, *arguments: str | Path) -> None:
    """Run a stage's command in `folder`, its output in a log there; an error shows the log's end."""
    command = [sys.executable, "-m", f"stages.{module}", *map(str, arguments)]
    with open(folder / f"{module}.log", "w") as log:
        done = subprocess.run(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        sys.exit(f"{folder.name}: {module} failed: {(folder / f'{module}.log').read_text()[-800:]}")


def row(title: str, trainings: list[Metrics], steps: str) -> str:
    """Mean ± deviation of each metric."""
    cells = []
    for name in METRICS:
        if values := [training[steps][name] for training in trainings if name in training[steps]]:
            deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
            cells.append(f"{name} {statistics.mean(values):.4g} ± {deviation:.2g}")
    return f"  {title:32} {', '.join(cells)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizers", nargs="+", required=True)
    parser.add_argument("--decoders", nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once")
    parser.add_argument("--work", type=Path, default=Path("scratch/trainings"))
    args = parser.parse_args()
    runs = list(product(args.tokenizers, args.decoders, args.seeds))
    with ThreadPoolExecutor(args.jobs) as pool:
        results = dict(zip(runs, pool.map(lambda run: measured(*run, args.work), runs), strict=True))
    for tokenizer, decoder in product(args.tokenizers, args.decoders):
        trainings = [results[tokenizer, decoder, seed] for seed in args.seeds]
        for steps in trainings[0]:
            print(row(f"{tokenizer}-{decoder}, {steps}", trainings, steps))


if __name__ == "__main__":
    main()
