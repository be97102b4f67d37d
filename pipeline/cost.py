"""What each stage costs with the present values of params.yaml, before any work.

Run:    semtok cost [--gpu NAME] [--images TRAIN VAL CLASSES]
Expect: one line per stage: what it works on, operations, bytes on disk, time; then the sums. Half a minute; nothing is
        changed. --images stands for images that are not here yet: 1281167 50000 1000 for ImageNet's.

Time on this machine: the stage's last duration times its operations now over those then, of the params in dvc.lock. Of
a stage without operations: times its items now over those then. Of a stage that never ran here: its operations at the
median rate of the others. Time on a GPU: operations / (peak of the GPU in bf16 * UTILIZATION).
"""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from pipeline import lockfile
from pipeline.errors import PipelineError
from pipeline.files import WORK, read, write
from pipeline.params_file import PARAMS, dump, parse_sections
from pipeline.status import duration, last_seconds

SECS = 600
THEN = WORK / "cost-params.yaml"
# Dense products in bf16, TFLOP/s, from the makers' data sheets; fp16 for the T4, which has no bf16.
GPUS = {"b200": 2250, "h200": 989, "h100": 989, "l40s": 362, "a100": 312, "4090": 165, "l4": 121, "3090": 71, "t4": 65}
UTILIZATION = 0.33  # an assumption: what well-fed trainings of transformers reach; small networks reach less
HEADER = ("stage", "work", "operations", "disk", "time")
Costs = dict[str, dict[str, Any]]


def main(gpu: str | None, images: list[int] | None) -> int:
    """Print the table and what the times mean."""
    if gpu and gpu.lower() not in GPUS:
        raise PipelineError(f"--gpu {gpu}: expected one of {', '.join(GPUS)}")
    now = ask(PARAMS, images)
    seconds = on_gpu(now, gpu.lower()) if gpu else here(now)
    rows = [HEADER, *(row_of(name, cost, seconds[name]) for name, cost in now.items())]
    total = {key: sum(cost[key] for cost in now.values()) for key in ("flops", "disk_bytes")}
    known = [one for one in seconds.values() if one is not None]
    rows.append(row_of("sum", {"what": "", **total}, sum(known) if known else None))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    for row in rows:
        left, right = zip(row[:2], widths[:2], strict=True), zip(row[2:], widths[2:], strict=True)
        print("  ".join([*(cell.ljust(width) for cell, width in left), *(cell.rjust(width) for cell, width in right)]))
    print(f"\n{meaning(gpu, [name for name, one in seconds.items() if one is None])}")
    return 0


def row_of(name: str, cost: dict[str, Any], seconds: float | None) -> tuple[str, ...]:
    """One line of the table as texts."""
    operations = amount(cost["flops"], "FLOP") if cost["flops"] else ""
    disk = amount(cost["disk_bytes"], "B") if cost["disk_bytes"] else ""
    return name, cost["what"], operations, disk, "?" if seconds is None else duration(seconds)


def amount(number: float, unit: str) -> str:
    """Two digits or more with a decimal prefix: 1.5 TFLOP, 29 MB."""
    prefixes = ["", "k", "M", "G", "T", "P", "E", "Z"]
    while number >= 999.5 and len(prefixes) > 1:
        number /= 1000
        prefixes.pop(0)
    return f"{number:.1f} {prefixes[0]}{unit}" if number < 9.95 else f"{number:.0f} {prefixes[0]}{unit}"


def meaning(gpu: str | None, unknown: list[str]) -> str:
    """What the column of times says, and what it leaves out."""
    if gpu:
        peak = f"{GPUS[gpu.lower()]} TFLOP/s * {UTILIZATION}"
        return f"time: operations / ({peak}), one GPU, without reading and decoding images. Studies are not included."
    text = "time: on this machine, from the last durations of its stages. Studies are not included."
    return text + (f" No stage ran here, from which to estimate {', '.join(unknown)}." if unknown else "")


def ask(path: Path, images: list[int] | None = None) -> Costs:
    """What `python -m stages.cost` says about a params file."""
    command = [sys.executable, "-W", "ignore", "-m", "stages.cost", "--params", str(path)]
    command += ["--images", *map(str, images)] if images else []
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECS)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"]
        raise PipelineError("\n".join(line.removeprefix("error: ") for line in lines if "error: " in line) or lines[-1])
    return json.loads(done.stdout.splitlines()[-1])


def on_gpu(now: Costs, gpu: str) -> dict[str, float | None]:
    """Seconds per stage; none for a stage without operations."""
    rate = GPUS[gpu] * 1e12 * UTILIZATION
    return {name: cost["flops"] / rate if cost["flops"] else None for name, cost in now.items()}


def here(now: Costs) -> dict[str, float | None]:
    """Seconds per stage on this machine, by what it took last time."""
    took = {name: seconds for name in now if (seconds := last_seconds(name)) is not None}
    then = costs_then() if took else {}
    took = {name: seconds for name, seconds in took.items() if name in then}
    rates = [then[name]["flops"] / seconds for name, seconds in took.items() if then[name]["flops"]]
    return {name: scaled(cost, then.get(name), took.get(name), rates) for name, cost in now.items()}


def scaled(cost: dict[str, Any], then: dict[str, Any] | None, took: float | None, rates: list[float]) -> float | None:
    """Seconds of a stage that took `took` with the cost `then`; by the median of the rates if it never ran."""
    if then and took is not None:
        key = "flops" if then["flops"] else "items"
        return took * cost[key] / then[key]
    return cost["flops"] / median(rates) if rates and cost["flops"] else None


def costs_then() -> Costs:
    """The costs with the params that dvc.lock records, which are those of the last durations."""
    params = parse_sections(read(PARAMS), str(PARAMS))
    for stage in lockfile.parse(read(lockfile.LOCKFILE)).values():
        for key, value in stage.get("params", {}).get(str(PARAMS), {}).items():
            *above, last = key.split(".")
            node = params
            for name in above:
                node = node.setdefault(name, {})
            node[last] = value
    write(THEN, dump(params))
    return ask(THEN)
