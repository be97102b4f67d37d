"""Every test runs in a folder of its own, on one thread, with the toy pipeline's artifacts at hand."""

import contextlib
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import serving
import toy as toys
from hypothesis import settings

from pipeline.cli import keep_bytecode
from stages.data.dvc_folder import NO_FOLDER

keep_bytecode()
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


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
def trained(toy, tmp_path_factory) -> Path:
    """The data folder of the toy pipeline with a decoder, two generators and samples of `ar`. Read only."""
    root = shutil.copytree(toy, tmp_path_factory.mktemp("trained") / "toy")
    for command in ("decoder", "generator@kmeans-ar", "generator@kmeans-masked", "samples@kmeans-ar"):
        toys.run(command, root)
    return root / "data"


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


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    """An images artifact of 80 rendered scenes of up to four objects. Read only."""
    from stages.core.params import Machine, load
    from stages.data.params import Params
    from stages.data.writer import write_images

    root = tmp_path_factory.mktemp("scenes")
    scene = {"count": 80, "max_objects": 4, "patterned": 0.2, "nuisance": 0.1}
    data = {"source": "scenes", "folder": NO_FOLDER, "img_px": 32, "val_fraction": 0.25, "scenes": scene}
    params = toys.write_params(root, {"data": data})
    with contextlib.chdir(root):
        write_images(root / "images", load("data", Params, params), load("machine", Machine, params))
    return root / "images"
