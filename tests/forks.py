"""Processes forked from one that has the slow imports behind it: torch and Prefect take four seconds of CPU each.

done = forks.run("semtok", "status", root=root)        # as a shell there would run `semtok status`
"""

import contextlib
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

IMPORTS = ["torch", "timm", "torch._dynamo", "dvclive", "pipeline.flow", "dvc.commands.repro", "dvc.stage.run"]
SECS = 300


def process(target: Callable, *arguments: Any) -> multiprocessing.Process:
    """A process that will call `target`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)
    return context.Process(target=target, args=arguments)


@contextlib.contextmanager
def forked(target: Callable, *arguments: Any) -> Iterator[multiprocessing.Process]:
    """A started process that calls `target`; killed at the end of the block."""
    child = process(target, *arguments)
    child.start()
    try:
        yield child
    finally:
        child.kill()
        child.join()


def run(command: str, *arguments: str, root: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """`semtok …`, `dvc …` or `python CODE` in a folder."""
    folder = Path(tempfile.mkdtemp())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    try:
        with forked(_become, str(folder), str(root), {**os.environ, "PATH": path, **env}, command, *arguments) as child:
            child.join(SECS)
            status = child.exitcode
        said = [(folder / name).read_text() for name in ("stdout", "stderr")]
        assert status is not None, f"{command} has not ended after {SECS} s: {said}"
        return subprocess.CompletedProcess([command, *arguments], status, *said)
    finally:
        shutil.rmtree(folder)


def _become(folder: str, root: str, env: dict[str, str], command: str, *arguments: str) -> None:
    """In the child."""
    os.chdir(root)
    os.environ.clear()
    os.environ.update(env)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored, by all children too
    sys.argv = [command, *arguments]
    sys.exit({"dvc": _dvc, "semtok": _semtok, "python": _python}[command](*arguments))


def _dvc(*arguments: str) -> int:
    from dvc.cli import main

    logging.getLogger().handlers.clear()  # Prefect's, which would print what DVC logs once more
    return main([*arguments])


def _semtok(*arguments: str) -> None:
    from pipeline.cli import main

    _settings_of_prefect()
    main()


def _python(code: str) -> None:
    _settings_of_prefect()
    exec(code, {})


def _settings_of_prefect() -> None:
    """For this folder and environment."""
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()
