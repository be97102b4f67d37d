"""What this machine and this installation can do, each asked in a process of its own with a time limit.

The packages that are asked load for seconds and may crash or hang; `semtok doctor` must not.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PROBE_SECS = 60
PACKAGES = ("dvc", "prefect", "torch", "faiss-gpu", "timm")
LITTLE_BYTES = 5 * 10**9
TORCH = """
import torch
print(json.dumps([f"{torch.cuda.get_device_name(n)}, {torch.cuda.get_device_properties(n).total_memory / 2**30:.0f} GiB"
                  for n in range(torch.cuda.device_count())]))
"""
FAISS = """
import faiss, numpy
gpus = faiss.get_num_gpus()
kmeans = faiss.Kmeans(16, 8, niter=5, seed=0, gpu=gpus > 0)
kmeans.train(numpy.random.default_rng(0).standard_normal((2000, 16), dtype=numpy.float32))
assert numpy.isfinite(kmeans.centroids).all()
print(json.dumps(gpus))
"""


@dataclass(frozen=True)
class Finding:
    """One line of `semtok doctor`."""

    state: str  # ok | warn | FAIL
    subject: str
    text: str
    fix: str = ""  # a command


def ask(subject: str, code: str, fix: str) -> tuple[object, list[Finding]]:
    """The JSON that some Python prints; or why not, as a finding."""
    command = [sys.executable, "-W", "ignore", "-c", f"import json\n{code}"]
    env = {**os.environ, "DO_NOT_TRACK": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECS, env=env)
    except subprocess.TimeoutExpired:
        return None, [Finding("FAIL", subject, f"no answer in {PROBE_SECS} s", fix)]
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"]
        return None, [Finding("FAIL", subject, lines[-1][:200], fix)]
    return json.loads(done.stdout.splitlines()[-1]), []


def interpreter() -> list[Finding]:
    """Python and the platform."""
    wanted = sys.version_info >= (3, 11) and sys.platform != "win32"
    text = f"{platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return [Finding("ok" if wanted else "FAIL", "python", text, "" if wanted else "uv python install 3.12 && uv sync")]


def packages() -> list[Finding]:
    """Versions of what everything rests on."""
    found = {name: installed(name) for name in PACKAGES}
    found["faiss"] = found.pop("faiss-gpu") or installed("faiss-cpu")
    missing = [name for name, number in found.items() if not number]
    text = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    if missing:
        return [Finding("FAIL", "packages", f"not installed: {', '.join(missing)}", "uv sync")]
    return [Finding("ok", "packages", text)]


def installed(name: str) -> str:
    """The version of a package, empty if there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def torch_gpus() -> list[Finding]:
    """The GPUs torch sees; one that only the driver sees is a torch built without CUDA, or for another one."""
    names, problem = ask("torch", TORCH, "uv sync --reinstall-package torch")
    if isinstance(names, list) and not names and shutil.which("nvidia-smi"):
        why = "nvidia-smi is here, but torch sees no GPU: stages will run on the CPU"
        return [Finding("warn", "torch", why, "nvidia-smi; python -m torch.utils.collect_env")]
    return problem or [Finding("ok", "torch", "; ".join(names) if isinstance(names, list) and names else "no GPU: CPU")]


def faiss_kmeans() -> list[Finding]:
    """Whether faiss clusters, on a GPU where it sees one; faiss-cpu sees none."""
    gpus, problem = ask("faiss", FAISS, "uv sync --reinstall-package faiss-gpu")
    if gpus == 0 and shutil.which("nvidia-smi"):
        why = "k-means works, but faiss sees no GPU, though nvidia-smi is here: it will run on the CPU"
        return [Finding("warn", "faiss", why, "nvidia-smi; uv sync --reinstall-package faiss-gpu")]
    return problem or [Finding("ok", "faiss", f"k-means works on {f'{gpus} GPUs' if gpus else 'the CPU'}")]


def prefect_server() -> list[Finding]:
    """Whether Prefect's server can be loaded: a wrong fastapi shows only here."""
    _, problem = ask("prefect server", "import prefect.server.api.server; print(1)", "uv sync")
    return problem or [Finding("ok", "prefect server", "can start")]


def disk(folders: dict[str, Path]) -> list[Finding]:
    """Free space where data and DVC's cache are."""
    findings = []
    for subject, folder in folders.items():
        there = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
        free = shutil.disk_usage(there).free
        few = free < LITTLE_BYTES
        fix = "dvc gc --workspace (drops what no present stage made); dvc cache dir FOLDER" if few else ""
        findings.append(Finding("warn" if few else "ok", subject, f"{gigabytes(free)} free", fix))
    return findings


def gigabytes(count: float) -> str:
    """Bytes in words."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
