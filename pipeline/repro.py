"""One stage by DVC: `dvc repro --single-item` in a process group of its own, which ends with this process.

children = Children()
child = children.start("features", force=False, env={})
for line in child.lines(every_secs=1): …
child.outcome()                         # "ran", "unchanged" or "restored"; StageFailed
children.stop()                         # from any thread
"""

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

import psutil

from pipeline.graph import name_of

UNCHANGED = re.compile(r"^((Stage )?'.+' didn't change, skipping|Verifying .* in frozen .*)$")
RESTORED = re.compile(r"^Stage '.+' is cached - skipping run, checking out outputs$")
BAR = re.compile(r"\d+%\|")  # a progress bar of tqdm
BEFORE_ERROR = re.compile(r"^.*\d+%\|.*?(?=error:|ERROR:)")  # a bar does not end its line
BAR_SECS = 10.0
ADVICE = re.compile(
    r"^\s*(To track the changes|git add|To enable auto staging|dvc config core\.autostage|Use `dvc push`)"
)
STOP_SECS = 15.0
SHOWN = 3  # lines of a failed stage
GO_ON = "the same command continues from its last checkpoint"
KILLED = re.compile(r"exited with (-9|137)\b")


class StageFailed(Exception):
    """The stage or DVC ended with an error; the message is what it printed."""


class Child:
    """One DVC process and the stage below it."""

    def __init__(self, stage: str, process: subprocess.Popen[str]):
        self.stage, self.process, self.output = name_of(stage), process, list[str]()
        self.bar_at = -BAR_SECS

    def lines(self, every_secs: float) -> Iterator[str]:
        """Its output, line by line: a progress bar once per BAR_SECS, and "" after `every_secs` without output."""
        printed: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, args=(printed,), daemon=True).start()
        while True:
            try:
                line = printed.get(timeout=every_secs)
            except queue.Empty:
                yield ""
                continue
            if line is None:
                return
            if not self._is_frequent(line):
                self.output.append(line)
                yield line

    def _read(self, printed: queue.Queue[str | None]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if (text := BEFORE_ERROR.sub("", line.rstrip())) and not ADVICE.match(text):
                printed.put(text)
        printed.put(None)

    def _is_frequent(self, line: str) -> bool:
        """Whether this refresh of a progress bar comes too soon after the last one shown."""
        if not BAR.search(line) or "100%|" in line:
            return False
        if time.monotonic() - self.bar_at < BAR_SECS:
            return True
        self.bar_at = time.monotonic()
        return False

    def outcome(self) -> str:
        """What DVC did, according to its messages; call it after all `lines` were read."""
        if status := self.process.wait():
            raise StageFailed(self._why() or f"{self.stage}: DVC ended with status {status}")
        if any(UNCHANGED.match(line) for line in self.output):
            return "unchanged"
        return "restored" if any(RESTORED.match(line) for line in self.output) else "ran"

    def _why(self) -> str:
        """The stage's own errors, else DVC's, else its last lines but progress bars."""
        said = [line for line in self.output if not BAR.search(line)]
        if any(KILLED.search(line) for line in said):
            return f"{self.stage}: its process was killed, as the system does where memory runs out; {GO_ON}"
        errors = [line for line in said if line.startswith("error:")]
        errors = errors or [line for line in said if line.startswith("ERROR:")]
        return "; ".join(errors[-SHOWN:] or said[-SHOWN:])

    def stop(self) -> None:
        """End the stage below DVC, so that DVC itself ends in order; after STOP_SECS kill them all."""
        signaled: set[int] = set()
        give_up = time.monotonic() + STOP_SECS
        while self.process.poll() is None and time.monotonic() < give_up:
            for pid in descendants(self.process.pid) - signaled:
                signaled.add(pid)
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
        """Let DVC decide about the stage of this address, and run it if need be; `env` is added to the environment."""
        command = [sys.executable, "-m", "pipeline.dvc_process", *(["--force"] if force else []), stage]
        with self.lock:
            if self.stopped:
                raise StageFailed(f"{stage}: the run is being stopped")
            process = subprocess.Popen(
                command, env={**os.environ, **dvc_env(), **env}, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
            )  # fmt: skip
            child = Child(stage, process)
            self.started.append(child)
            return child

    def stop(self) -> None:
        """End them all, and start no more."""
        with self.lock:
            self.stopped = True
        threads = [threading.Thread(target=child.stop) for child in self.started]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def dvc_env() -> dict[str, str]:
    """What DVC needs to find: this interpreter as `python`, a shell that becomes its command (bash does, dash does not;
    so that the command is DVC's own child), and its parent."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    facts = {"PATH": path, "SHELL": shutil.which("bash") or "/bin/sh", "PIPELINE_PARENT": str(os.getpid())}
    return facts | {"PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1"}


def descendants(pid: int) -> set[int]:
    """The pids of all living descendants of a process."""
    try:
        return {child.pid for child in psutil.Process(pid).children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()
