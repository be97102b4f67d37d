"""One stage by DVC: `dvc repro --single-item` in a process group of its own, that outlives nothing.

    children = Children()
    child = children.start("features", force=False, env={})
    for line in child.lines(every_secs=1): …
    child.outcome()                         # "ran", "unchanged" or "restored"; StageFailed
    children.stop()                         # from any thread

`python -m pipeline.repro STAGE` is what `start` runs: DVC's own command line in a process that dies with its parent.
"""

from __future__ import annotations

import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

UNCHANGED = re.compile(r"^((Stage )?'.+' didn't change, skipping|Verifying .* in frozen .*)$")
RESTORED = re.compile(r"^Stage '.+' is cached - skipping run, checking out outputs$")
BAR = re.compile(r"\d+%\|")  # what tqdm draws
BAR_SECS = 10.0
ADVICE = re.compile(
    r"^\s*(To track the changes|git add|To enable auto staging|dvc config core\.autostage|Use `dvc push`)"
)
STOP_SECS = 15.0


class StageFailed(Exception):
    """The stage or DVC ended with an error; the message is what it said."""


class Child:
    """One DVC process and the stage below it."""

    def __init__(self, stage: str, process: subprocess.Popen[str]):
        self.stage, self.process, self.said = stage, process, list[str]()

    def lines(self, every_secs: float) -> Iterator[str]:
        """What it prints, as it comes, of a bar's refreshes one in BAR_SECS; an empty line while it is silent."""
        printed: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, args=(printed,), daemon=True).start()
        bar_at = -BAR_SECS
        while True:
            try:
                line = printed.get(timeout=every_secs)
            except queue.Empty:
                yield ""
                continue
            if line is None:
                return
            if BAR.search(line) and "100%|" not in line:
                if time.monotonic() - bar_at < BAR_SECS:
                    continue
                bar_at = time.monotonic()
            self.said.append(line)
            yield line

    def _read(self, printed: queue.Queue[str | None]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if (text := line.rstrip()) and not ADVICE.match(text):
                printed.put(text)
        printed.put(None)

    def outcome(self) -> str:
        """What DVC did, by its own words, once all lines were read."""
        if status := self.process.wait():
            errors = [line for line in self.said if line.startswith("error:")]
            errors = errors or [line for line in self.said if line.startswith("ERROR:")]
            raise StageFailed("; ".join(errors or self.said[-3:] or [f"{self.stage} ended with status {status}"]))
        if any(UNCHANGED.match(line) for line in self.said):
            return "unchanged"
        return "restored" if any(RESTORED.match(line) for line in self.said) else "ran"

    def stop(self) -> None:
        """End the stage below DVC, so that DVC closes its books itself; after STOP_SECS end them all."""
        asked: set[int] = set()
        give_up = time.monotonic() + STOP_SECS
        while self.process.poll() is None and time.monotonic() < give_up:
            for pid in below(self.process.pid) - asked:
                asked.add(pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            time.sleep(0.05)
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Children:
    """The processes of one run."""

    def __init__(self) -> None:
        self.started: list[Child] = []
        self.outcomes: dict[str, tuple[str, float]] = {}  # stage -> what DVC did, seconds
        self.stopped, self.lock = False, threading.Lock()

    def start(self, stage: str, *, force: bool, env: dict[str, str]) -> Child:
        """Let DVC decide about one stage, and run it if need be; `env` is added to this process's environment."""
        command = [sys.executable, "-m", "pipeline.repro", *(["--force"] if force else []), stage]
        with self.lock:
            if self.stopped:
                raise StageFailed(f"{stage}: the run is being stopped")
            process = subprocess.Popen(
                command, env={**os.environ, **surroundings(), **env}, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
            )  # fmt: skip
            child = Child(stage, process)
            self.started.append(child)
            return child

    def stop(self) -> None:
        """End them all, and let none start any more."""
        with self.lock:
            self.stopped = True
        enders = [threading.Thread(target=child.stop) for child in self.started]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join()


def surroundings() -> dict[str, str]:
    """What DVC needs to find: this interpreter by the name `python`, a shell that becomes the command it is given (bash
    does, dash does not; so that the command is DVC's own child), and its parent."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    facts = {"PATH": path, "SHELL": shutil.which("bash") or "/bin/sh", "PIPELINE_PARENT": str(os.getpid())}
    return facts | {"PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1"}


def below(pid: int) -> set[int]:
    """The pids of all living descendants of a process."""
    import psutil

    try:
        return {child.pid for child in psutil.Process(pid).children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()


def die_with_parent() -> None:
    """Ask the kernel to end this process when the one that started it ends, however that happens."""
    if sys.platform.startswith("linux"):
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != int(os.environ["PIPELINE_PARENT"]):
        sys.exit("the process that asked for this stage has ended")


def main() -> None:
    die_with_parent()
    from dvc.cli import main as dvc

    os.environ["PIPELINE_PARENT"] = str(os.getpid())
    sys.exit(dvc(["--wait-for-lock", "repro", "--single-item", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
