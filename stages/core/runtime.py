"""Run the command of a stage: the only writer of its output, refused if its inputs change.

    if __name__ == "__main__":
        runtime.run(main)                   # or run(main, parallel=True) where several processes share the work

With NPROC > 1 a parallel stage starts again as NPROC processes under torchrun. LAUNCHER replaces torchrun by any
command that takes `-m MODULE ARGUMENTS` at its end, such as `srun torchrun --nnodes 4 --nproc-per-node 8 …`. Both come
from the environment: DVC hashes the command and the params, and another number of processes must rerun nothing.

Artifacts and checkpoints appear by rename, so a stage may be killed at any moment, and is with DVC: stages/__init__.py.
"""

import ctypes
import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import stages
from stages.core import UserError, code
from stages.core.artifact import write_atomically
from stages.core.distributed import rank, world_size
from stages.core.progress import full_disk

LOCKS, DURATIONS = Path("scratch/locks"), Path("scratch/durations")
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def run(main: Callable[[], None], parallel: bool = False) -> None:
    """Call a stage's `main`; a `UserError` ends the process with its message and status 2."""
    try:
        keep_bytecode()
        keep_memory()
        if parallel and (launcher := launcher_of(os.environ)):
            launch(launcher)
        if not parallel and world_size() > 1:
            raise UserError(f"{sys.argv[0]}: works in one process: start it without torchrun")
        if rank() > 0:
            code.begin()
            main()
            return
        with sole_writer(written_by(sys.argv)):
            alone(main)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if not (said := full_disk(error)):
            raise
        print(f"error: {said}", file=sys.stderr)
        sys.exit(2)


def keep_bytecode() -> None:
    """Keep bytecode in the virtual environment where Python may not write it beside sources, as usual in containers.

    torch, timm and torch-fidelity take 21 s of CPU to import when they are compiled anew, 8 s otherwise.
    """
    if sys.dont_write_bytecode and sys.prefix != sys.base_prefix:
        sys.pycache_prefix, sys.dont_write_bytecode = f"{sys.prefix}/bytecode", False


def keep_memory() -> None:
    """Let glibc keep freed blocks of up to 32 MB for the next allocation.

    By default it returns them to the kernel, and every training step then causes thousands of page faults. Larger
    blocks, which hold data rather than activations, are still returned.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):  # other C libraries have none
        mallopt(MMAP_THRESHOLD, 32 * 2**20)  # the most that glibc accepts
        mallopt(TRIM_THRESHOLD, 2**31 - 1)


def alone(main: Callable[[], None]) -> None:
    """Call `main`, then check that code, params and inputs are unchanged; record the duration of a stage of DVC."""
    started = time.monotonic()
    code.begin()
    try:
        main()
        code.check()
    finally:
        code.end()
    if stage := os.environ.get("DVC_STAGE"):
        DURATIONS.mkdir(parents=True, exist_ok=True)
        stage = stage.rpartition(":")[2]  # of studies/dvc.yaml:probe
        facts = {"stage": stage, "seconds": round(time.monotonic() - started, 1)}
        write_atomically(DURATIONS / f"{stage}.json", json.dumps(facts).encode())


def launcher_of(env: os._Environ[str]) -> list[str]:
    """The command that starts this stage's processes; empty for a single process, or if they run already."""
    if "RANK" in env:
        return []
    if "LAUNCHER" in env:
        return shlex.split(env["LAUNCHER"])
    count = env.get("NPROC", "1")
    if not count.isdecimal() or int(count) < 1:
        raise UserError(f"NPROC = {count!r}: expected the number of processes a stage may use, 1 or more")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "localhost"]
    return [*torchrun, "--nproc-per-node", count] if int(count) > 1 else []


def launch(launcher: list[str]) -> None:
    """Let `launcher` run this very module with the same arguments, and end as it ends.

    The launcher is a child process: exec would end the thread that `stages.die_with_parent` may have started. It has a
    session of its own, so that Ctrl-C in a terminal reaches it once: forwarded by this process.
    """
    module = sys.modules["__main__"].__spec__
    assert module is not None, "stages are run by `python -m`"
    if "LAUNCHER" not in os.environ:  # a LAUNCHER knows its number of processes per host
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(os.environ["NPROC"]))))
    # DDP is told to look for unused parameters on purpose (core/hardware.py), and warns of it in every process.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    sys.stdout.flush()
    command = [*launcher, "-m", module.name, *sys.argv[1:]]
    try:
        child = subprocess.Popen(command, start_new_session=True, preexec_fn=stages.tie_to_parent)
    except FileNotFoundError:
        raise UserError(f"LAUNCHER = {os.environ['LAUNCHER']!r}: there is no program {launcher[0]}") from None
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: child.send_signal(number))
    status = child.wait()
    sys.exit(status if status >= 0 else 128 - status)  # killed by a signal: 128 + its number, as in shells


def written_by(argv: list[str]) -> str:
    """The output of a command: its --out, else its --report."""
    options = dict(zip(argv[1:], argv[2:], strict=False))
    return options.get("--out") or options.get("--report") or Path(argv[0]).stem


@contextmanager
def sole_writer(output: str) -> Generator[None]:
    """Hold the lock of one output; `UserError` at once if another process holds it."""
    LOCKS.mkdir(parents=True, exist_ok=True)
    path = LOCKS / output.strip("/").replace("/", "-")
    with open(path, "a+", errors="replace") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UserError(f"{output}: process {lock.read() or '?'} is writing it. Wait for it, or stop it.") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
