"""A command of the toy in several processes that work together, as torchrun starts them."""

import contextlib
import multiprocessing
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import forks
import torch
import toy as toys

from stages.core import UserError


@contextlib.contextmanager
def ranks(command: str, root: Path, count: int) -> Iterator[list[multiprocessing.Process]]:
    """The command in `count` processes that work together, forked as `toys.process` forks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(count)}
    every = [{**group, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    children = [forks.process(be_rank, command, root, env) for env in every]
    for child in children:
        child.start()
    try:
        yield children
    finally:
        for child in children:
            child.kill()
            child.join()


def be_rank(command: str, root: Path, env: dict[str, str]) -> None:
    """What it prints is appended to <command>-<rank>.log; a `UserError` is exit status 2."""
    os.environ.update(env)
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    with open(root / f"{command}-{env['RANK']}.log", "a") as log, contextlib.redirect_stdout(log):
        try:
            toys.run(command, root)
        except UserError as error:
            print(error)
            sys.exit(2)


def run_together(command: str, root: Path, count: int = 2) -> list[int | None]:
    """The exit codes of `count` processes; None for one that hangs."""
    with ranks(command, root, count) as children:
        for child in children:
            child.join(60)
        return [child.exitcode for child in children]
