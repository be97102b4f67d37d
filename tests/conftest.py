"""Every test runs in a folder of its own, on one thread, with the toy pipeline's artifacts at hand."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import re
import shutil
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import serving
import toy as toys

from pipeline.cli import keep_bytecode

keep_bytecode()


def pytest_itemcollected(item):
    """A worker gets whole files, and one of them all that use the Prefect server, which takes 25 s of CPU to start."""
    item.add_marker(pytest.mark.xdist_group("server" if uses_server(item.path) else item.path.name))


@cache
def uses_server(path: Path) -> bool:
    """Whether a fixture or a test of the file asks for the fixture `server`."""
    return bool(re.search(r"^def \w+\([^)]*\bserver\b", path.read_text(), re.M))


@pytest.fixture(scope="session", autouse=True)
def no_bytecode_of_folders_that_go(tmp_path_factory):
    """What keep_bytecode keeps of modules in temporary folders goes with them."""
    yield
    if sys.pycache_prefix:
        shutil.rmtree(f"{sys.pycache_prefix}{tmp_path_factory.getbasetemp()}", ignore_errors=True)


@pytest.fixture(autouse=True)
def workdir(tmp_path, monkeypatch) -> Path:
    """The folder of the test, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Path:
    """A folder in which the toy pipeline ran from data to codebook and tokens. Read only."""
    root = tmp_path_factory.mktemp("toy")
    toys.run_until_tokens(root)
    return root


@pytest.fixture(scope="session")
def digits_toy(tmp_path_factory) -> SimpleNamespace:
    """The artifacts of toy_pipeline.build, by name. Read only, except samples of new names."""
    import toy_pipeline  # here, since xdist's controlling process runs no test and needs no torch

    return toy_pipeline.build(tmp_path_factory.mktemp("digits_toy"))


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A running Prefect server."""
    started = serving.Server(tmp_path_factory.mktemp("prefect"))
    started.start()
    yield started
    started.kill()
