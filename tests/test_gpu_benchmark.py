"""The GPU benchmark at tiny size on a CPU: every section leaves its figures, also one that is stopped.

Run: uv run pytest tests/test_gpu_benchmark.py
"""

import json
import shutil
import time

import pytest
import torch
import toy as toys

from benchmarks import gpu
from benchmarks.gpu_parts import token_training
from benchmarks.gpu_parts.figures import Figures
from benchmarks.gpu_parts.generator import generator
from benchmarks.gpu_parts.sampling import bytes_of
from benchmarks.gpu_parts.sizes import SIZES

FIGURES = {  # some of each section
    "device": {"cores", "products in bfloat16", "copies on the device, read and written"},
    "loading": {"loader alone, 0 processes", "training on one batch", "training with the loader"},
    "training": {"parameters", "eager: a step", "eager: codes"},
    "profile": {
        *(f"{name}: {phase}" for name in ("codes", "images") for phase in ("waiting for data", "copies", "forward")),
        "images: backward", "codes: clipping, AdamW, averages, the rest", "codes: kernels run", "images: kernel 1",
    },
    "sampling": {"batch 3: images", "batch 1: share of the bandwidth's limit", "batch 1: kernels run"},
    "twins": {"eager: largest difference of equal trainings", "equal codes of equal samplings"},
    "sharded": {"plain: a step", "FSDP2: a step", "largest difference of weights"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def params(workdir):
    shutil.copy(toys.ROOT / "params.yaml", workdir)


def figures_of(folder):
    return json.loads((folder / "figures.json").read_text())


@pytest.mark.parametrize("section", gpu.WORK)
def test_a_section_leaves_its_figures(section, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.measure(section, "tiny", tmp_path)
    found = figures_of(tmp_path)[section]
    assert found.keys() >= FIGURES[section]
    assert all(entry["value"] >= 0 for name, entry in found.items() if isinstance(entry["value"], float)), found
    lines = (tmp_path / "figures.txt").read_text().splitlines()
    assert len(lines) == len(found) and all(line.startswith(section) for line in lines)
    if section == "twins":
        assert found["eager: largest difference of equal trainings"]["value"] == 0
        assert found["eager: largest change by training"]["value"] > 0
        assert found["equal codes of equal samplings"]["value"] == 1
    if section == "sharded":
        assert found["largest difference of weights"]["value"] < 1e-4


def test_what_a_stopped_or_failed_section_had_stays_and_the_next_one_follows(tmp_path, monkeypatch):
    Figures(tmp_path, "loading").add("first", 1.0, "images/s")
    ends = {"loading": "stopped after 120 s", "twins": "failed: no memory", "device": ""}
    monkeypatch.setattr(gpu, "start", lambda name, size, out, seconds: ends[name])
    gpu.run_all([*ends], "tiny", tmp_path, minutes=12.0)
    found = figures_of(tmp_path)
    assert found["loading"]["first"] == {"value": 1.0, "unit": "images/s"}
    assert [found[name].get("ended", {}).get("value", "") for name in ends] == [*ends.values()]


def test_no_section_begins_when_the_time_is_up(tmp_path):
    gpu.run_all(["device"], "tiny", tmp_path, minutes=0.1)
    assert figures_of(tmp_path)["device"]["ended"]["value"].startswith("not begun")


def broken(sizes, device, figures):
    figures.add("before", 1.0, "s")
    raise MemoryError("too large")


def hanging(sizes, device, figures):
    figures.add("before", 1.0, "s")
    time.sleep(60)


@pytest.mark.parametrize(
    ("work", "why", "error"),
    [(broken, "failed with status 1", "MemoryError: too large"), (hanging, "stopped after 1 s", "")],
)
def test_a_section_that_fails_or_hangs_is_ended_and_named(work, why, error, tmp_path, monkeypatch):
    monkeypatch.setitem(gpu.WORK, "device", (work, 1))
    gpu.run_all(["device"], "tiny", tmp_path, minutes=1)
    found = {name: entry["value"] for name, entry in figures_of(tmp_path)["device"].items()}
    assert found["before"] == 1.0 and found["ended"] == why and found.get("error", "") == error


def test_all_sections_fit_into_12_minutes():
    assert sum(limit for _, limit in gpu.WORK.values()) <= 12 * 60


def test_the_large_generator_has_over_100_million_parameters():
    network = generator(SIZES["large"], "meta")
    assert sum(parameter.numel() for parameter in network.parameters()) > 100e6


def test_operations_and_bytes_are_those_of_the_formulas():
    sizes = SIZES["tiny"]
    dim, depth, positions, codes, batch = sizes.dim, sizes.depth, sizes.patches, sizes.num_codes, sizes.token_batch
    block = 2 * 12 * dim**2 * positions + 4 * positions**2 * dim
    assert token_training.step_flops(sizes) == 3 * batch * (depth * block + 2 * positions * dim * codes)
    matrices, entry = depth * 12 * dim**2 + dim * codes, 2 * depth * 3 * dim
    read = positions * matrices + entry * sum(range(1, positions + 1)) + entry * positions
    assert bytes_of(generator(sizes), 3) == 2 * read
