"""What Prefect costs: an up-to-date `semtok run` against an up-to-date `dvc repro`, and planning a graph of 100 stages.

Run:    uv run python benchmarks/overhead.py         (needs a running server: uv run semtok ui)
Expect: medians of 5 alternated runs; seconds, of which how many on a processor (what counts where others work, too),
        the ratio, seconds a stage; then the seconds that planning takes.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMANDS = {
    "dvc repro": [sys.executable, "-m", "dvc", "repro"],
    "semtok run": [sys.executable, "-c", "from pipeline.cli import main; main()", "run"],
}
PLAN = """
import time
from dvc.repo import Repo
from pipeline.graph import select
from pipeline.dvc_status import read_status
started, cpu = time.monotonic(), time.process_time()
print(len(select(read_status().nodes)), time.monotonic() - started, time.process_time() - cpu)
"""


def seconds(command: list[str], folder: Path) -> tuple[float, float]:
    """Wall-clock and processor time of a command that must succeed."""
    started, cpu = time.monotonic(), cpu_of_children()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.monotonic() - started, cpu_of_children() - cpu


def cpu_of_children() -> float:
    """Seconds on a processor of all that has ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def many_stages(folder: Path, count: int) -> None:
    """A DVC project of `count` stages in ten chains, none of which has run."""
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=folder, check=True)
    lines = ["stages:"]
    for n in range(count):
        needs = f"\n    deps: [out{n - 10}]" if n >= 10 else ""
        lines.append(f"  s{n}:\n    cmd: touch out{n}{needs}\n    outs: [out{n}]")
    (folder / "dvc.yaml").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    here = Path(__file__).parents[1]
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(args.rounds):
        for name, command in COMMANDS.items():
            taken[name].append(seconds(command, here))
    stages = len(
        subprocess.check_output([sys.executable, "-m", "dvc", "stage", "list", "--name-only"], cwd=here).split()
    )
    walls = {name: [wall for wall, _ in values] for name, values in taken.items()}
    for name, wall in walls.items():
        cpu = statistics.median(cpu for _, cpu in taken[name])
        print(f"{name}, {stages} stages up to date: {statistics.median(wall):.2f} s", end=" ")
        print(f"(from {min(wall):.2f} to {max(wall):.2f}), {cpu:.2f} s of a processor")
    dvc, semtok = (statistics.median(wall) for wall in walls.values())
    print(f"ratio {semtok / dvc:.2f}; {(semtok - dvc) / stages:.2f} s more a stage")
    with tempfile.TemporaryDirectory() as folder:
        many_stages(Path(folder), 100)
        told = subprocess.check_output([sys.executable, "-W", "ignore", "-c", PLAN], cwd=folder, text=True).split()
    wall, cpu = map(float, told[1:])
    print(f"{told[0]} stages: planned, with their status, in {wall:.2f} s, {cpu:.2f} s of a processor")


if __name__ == "__main__":
    main()
