"""Every command of the toy pipeline is killed five times, mostly in its first second: no other byte, no orphan.

Run: uv run pytest -s -m slow tests/test_kills.py      (KILLS_SEED=N for other moments, KILLS_ONLY=data,tokens for some)
Expect: one line a command, at the end the counts; about 25 minutes on two idle cores.

The killed one is DVC of `dvc repro`, or the flow, DVC or the stage of `semtok run`; the other of the two completes the
stage. Files are hard links to DVC's cache, so that a wrong write would damage an object.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import serving
import toy as toys

from pipeline import objects, repair
from pipeline.graph import name_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # DVC's own
SEED, ONLY = int(os.environ.get("KILLS_SEED", "0")), os.environ.get("KILLS_ONLY", "").split(",")
PATIENCE_SECS = 600
DVC = [sys.executable, "-W", "ignore", "-m", "dvc"]
WAYS = {"dvc": [*DVC, "repro", "--single-item", "--force"], "semtok": [*serving.SEMTOK, "run", "--single", "--force"]}
VICTIMS = {"dvc": ("command",), "semtok": ("command", "pipeline.dvc_process", "-m stages.")}


@pytest.fixture
def project(tmp_path, monkeypatch, server):
    """A copy of the repository with toy params, run once; the environment of all commands."""
    root = tmp_path / "project"
    shutil.copytree(toys.ROOT / "stages", root / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "studies").mkdir()
    for name in (".dvcignore", "prefect.toml", "studies/dvc.yaml"):
        shutil.copy(toys.ROOT / name, root / name)
    (root / "dvc.yaml").write_text((toys.ROOT / "dvc.yaml").read_text().replace("    frozen: true\n", ""))
    toys.write_params(root)
    toys.draw_pictures(root / "pictures")
    monkeypatch.chdir(root)
    for name, value in {**server.env, "DVC_NO_ANALYTICS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for arguments in (["init", "-q", "--no-scm"], ["config", "cache.type", "hardlink"], ["repro", "-q"]):
        subprocess.run([*DVC, *arguments], check=True)
    return root


def bytes_of(root: Path) -> dict[str, str]:
    """sha256 of all that the stages leave."""
    return {f"{top}/{name}": sha for top in ("data", "reports") for name, sha in toys.hashes(root / top).items()}


def below(process: subprocess.Popen, words: str) -> psutil.Process | None:
    """A living descendant whose command line has these words."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
        return next(
            (one for one in family if words in " ".join(one.cmdline()) and one.name() not in ("sh", "bash")), None
        )
    except psutil.NoSuchProcess:
        return None


def kill(stage: str, way: str, victim: str, after_secs: float) -> bool:
    """Start a stage, kill the victim this long after the stage's process has begun; False if it ended before."""
    with open(".dvc/tmp/killed.log", "a") as log:
        command = subprocess.Popen([*WAYS[way], stage], stdout=log, stderr=log, start_new_session=True)
    while not below(command, "-m stages.") and command.poll() is None:
        time.sleep(0.005)
    time.sleep(after_secs)
    found = below(command, victim) if victim != "command" else command
    landed = command.poll() is None and found is not None
    if landed and found:
        found.kill()
    command.wait(PATIENCE_SECS)
    return landed


def orphans(root: Path) -> int:
    """Processes that are left in the project after half a minute, which are then killed."""
    give_up = time.monotonic() + 30
    while (left := [one for one in serving.processes(root) if one.pid != os.getpid()]) and time.monotonic() < give_up:
        time.sleep(0.1)
    for process in left:
        print("orphan:", process.cmdline(), flush=True)
        process.kill()
    return len(left)


def complete(stage: str, way: str) -> None:
    """Run the stage to its end."""
    if way == "dvc":
        repair.fix_issues()  # as `semtok run` does itself
    done = subprocess.run([*WAYS[way], stage], capture_output=True, text=True, timeout=PATIENCE_SECS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_command_is_killed_five_times_and_leaves_the_same_bytes_and_no_process(project):
    rng, expected, counts = random.Random(SEED), bytes_of(project), {"kills": 0, "first second": 0, "orphans": 0}
    listed = subprocess.run(
        [*DVC, "stage", "list", "--all", "--name-only"], capture_output=True, text=True, check=True
    ).stdout
    stages = [name for name in listed.split() if any(word in name for word in ONLY)]
    for number, stage in enumerate(stages):
        way, other = ("dvc", "semtok") if number % 2 else ("semtok", "dvc")
        facts = Path(f"scratch/durations/{name_of(stage)}.json")
        lasts = json.loads(facts.read_text())["seconds"] if stage != "code" else 1.0
        moments = [*(rng.uniform(0, min(1, lasts)) for _ in range(4)), rng.uniform(0, lasts)]
        for after_secs in moments:
            landed = kill(stage, way, rng.choice(VICTIMS[way]), after_secs)
            counts["kills"] += landed
            counts["first second"] += landed and after_secs <= 1
            counts["orphans"] += orphans(project)
        complete(stage, other)
        assert bytes_of(project) == expected, stage
        assert objects.look_through(Path(".dvc/cache/files/md5"))[2] == []
        print(f"{stage}: {way} killed after {', '.join(f'{secs:.2f}' for secs in moments)} s, same bytes", flush=True)
    objects.KNOWN.unlink()
    assert objects.look_through(Path(".dvc/cache/files/md5"))[2] == [], "a file by a hard link was written to"
    print(f"\n{counts}, 0 different, every cache object keeps its hash")
    assert counts["orphans"] == 0
    assert counts["kills"] >= 100 or ONLY != [""]
