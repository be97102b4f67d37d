"""What Prefect costs: an up-to-date `semtok run` against an up-to-date `dvc repro`, and planning a graph of 100 stages.

Run:    uv run python benchmarks/overhead.py         (needs a running server: uv run semtok ui)
Expect: medians of 5 alternated runs; seconds, their ratio, seconds a stage.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 5
COMMANDS = {
    "dvc repro": [sys.executable, "-m", "dvc", "repro"],
    "semtok run": [sys.executable, "-c", "from pipeline.cli import main; main()", "run"],
}
PLAN = """
import time
started = time.monotonic()
from pipeline.graph import plan
from pipeline.outlook import look
print(len(plan(look().nodes)), time.monotonic() - started)
"""


def seconds(command: list[str], folder: Path) -> float:
    """Wall-clock time of a command that must succeed."""
    started = time.monotonic()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.monotonic() - started


def many_stages(folder: Path, count: int) -> None:
    """A DVC project of `count` stages in ten chains, none of which has run."""
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=folder, check=True)
    lines = ["stages:"]
    for n in range(count):
        needs = f"\n    deps: [out{n - 10}]" if n >= 10 else ""
        lines.append(f"  s{n}:\n    cmd: touch out{n}{needs}\n    outs: [out{n}]")
    (folder / "dvc.yaml").write_text("\n".join(lines) + "\n")


def main() -> None:
    here = Path(__file__).parents[1]
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            taken[name].append(seconds(command, here))
    medians = {name: statistics.median(values) for name, values in taken.items()}
    stages = len(
        subprocess.check_output([sys.executable, "-m", "dvc", "stage", "list", "--name-only"], cwd=here).split()
    )
    for name, value in medians.items():
        print(
            f"{name}, {stages} stages up to date: {value:.2f} s (from {min(taken[name]):.2f} to {max(taken[name]):.2f})"
        )
    extra = medians["semtok run"] - medians["dvc repro"]
    print(f"ratio {medians['semtok run'] / medians['dvc repro']:.2f}; {extra / stages:.2f} s more a stage")
    with tempfile.TemporaryDirectory() as folder:
        many_stages(Path(folder), 100)
        told = subprocess.check_output([sys.executable, "-W", "ignore", "-c", PLAN], cwd=folder, text=True).split()
    print(f"{told[0]} stages: imported, planned and asked for their status in {float(told[1]):.2f} s")


if __name__ == "__main__":
    main()
