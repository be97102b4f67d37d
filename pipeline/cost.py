"""What the main stages cost with the present values of params.yaml, before any work.

Run:    semtok cost [--gpu NAME] [--images TRAIN VAL CLASSES]
Expect: one line per stage: its work, operations, bytes of data, peak memory, time by a rule of thumb, and how long it
        took last time here, with whatever params; then sums, of memory the largest. Half a minute; nothing is changed.
        --images stands for images that are not here yet: 1281167 50000 1000 for ImageNet's.
"""

import json
from typing import Any

from pipeline.errors import PipelineError
from pipeline.params_check import ask, check_params
from pipeline.status import duration, last_duration

SECS = 600
# Dense products in bf16, TFLOP/s, from the makers' data sheets; fp16 for the T4, which has no bf16.
GPUS = {"b200": 2250, "h200": 989, "h100": 989, "l40s": 362, "a100": 312, "4090": 165, "l4": 121, "3090": 71, "t4": 65}
UTILIZATION = 0.33  # an assumption: what well-fed trainings of transformers reach; small networks reach less
HEADER = ("stage", "work", "operations", "data", "memory", "time", "took")


def main(gpu: str | None, images: list[int] | None) -> int:
    """Print the table and what the times mean."""
    if gpu and gpu.lower() not in GPUS:
        raise PipelineError(f"--gpu {gpu}: expected one of {', '.join(GPUS)}")
    check_params()
    printed, errors = ask("stages.cost", *(["--images", *map(str, images)] if images else []), secs=SECS)
    if errors:
        raise PipelineError("\n".join(errors))
    found = json.loads(printed.splitlines()[-1])
    costs, peak = found["stages"], GPUS[gpu.lower()] * 1e12 if gpu else found["peak_flops"]
    total = {key: sum(cost[key] for cost in costs.values()) for key in ("flops", "disk_bytes")}
    total["memory_bytes"] = max(cost["memory_bytes"] for cost in costs.values())
    rows = [HEADER, *(row_of(name, cost, peak, last_duration(name)) for name, cost in costs.items())]
    rows.append(row_of("sum", {"what": "", **total}, peak, ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    for row in rows:
        left, right = zip(row[:2], widths[:2], strict=True), zip(row[2:], widths[2:], strict=True)
        cells = [*(cell.ljust(width) for cell, width in left), *(cell.rjust(width) for cell, width in right)]
        print("  ".join(cells).rstrip())
    device = f"one {gpu.lower()}, bf16" if gpu else "this processor, just measured, fp32"
    print(
        f"\ntime: operations / ({UTILIZATION} * {amount(peak, 'FLOP')}/s of {device}). Neither time nor data include "
        "reading images, starting processes, weights, checkpoints, DVC's cache, studies and the report.\n"
        "memory: of one process on a CPU, at most; on a GPU most of it is in the GPU's memory.\n"
        "took: the last run of the stage on this machine, with whatever params it had."
    )
    return 0


def row_of(name: str, cost: dict[str, Any], peak: float, took: str) -> tuple[str, ...]:
    """One line of the table as texts."""
    operations = amount(cost["flops"], "FLOP") if cost["flops"] else ""
    data = amount(cost["disk_bytes"], "B") if cost["disk_bytes"] else ""
    seconds = cost["flops"] / peak / UTILIZATION
    time = "" if not operations else "< 1 s" if seconds < 1 else duration(seconds)
    return name, cost["what"], operations, data, amount(cost["memory_bytes"], "B"), time, took


def amount(number: float, unit: str) -> str:
    """Two digits or more with a decimal prefix: 1.5 TFLOP, 29 MB."""
    prefixes = ["", "k", "M", "G", "T", "P", "E", "Z"]
    while number >= 999.5 and len(prefixes) > 1:
        number /= 1000
        prefixes.pop(0)
    return f"{number:.1f} {prefixes[0]}{unit}" if number < 9.95 else f"{number:.0f} {prefixes[0]}{unit}"
