"""Checks of this machine and installation. Packages are loaded in a process of their own, with a time limit.

torch, faiss and Prefect's server load for seconds and may crash or hang; `semtok doctor` must not.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import cast

from pipeline.files import WORK, write
from pipeline.finding import Finding, human_size

PROBE_SECS, DAY_SECS = 60, 24 * 3600
KNOWN = WORK / "probes.json"
PACKAGES = ("dvc", "prefect", "torch", "faiss-gpu", "timm")
LOW_DISK_BYTES = 5 * 10**9
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
RUNS = """
from pipeline.flow_runs import dead_runs
print(json.dumps([vars(finding) for finding in dead_runs({fix})]))
"""


def run_probe(subject: str, code: str, fix: str) -> tuple[object, list[Finding]]:
    """The JSON that a piece of Python prints; or why it failed, as a finding.

    What succeeded is remembered for a day, until another package is installed. Where NVIDIA's driver is, everything is
    asked anew: GPUs come and go.
    """
    if shutil.which("nvidia-smi"):
        return ask(subject, code, fix)
    known, key = read_known(), sha256(f"{code}\n{installation()}".encode()).hexdigest()
    if key in known:
        return known[key], []
    found, problem = ask(subject, code, fix)
    if not problem:
        write(KNOWN, json.dumps({**read_known(), key: found}))
    return found, problem


def installation() -> str:
    """The interpreter and every installed package with its version."""
    return "\n".join([sys.version, *sorted(f"{one.name} {one.version}" for one in distributions())])


def read_known() -> dict[str, object]:
    """What probes printed in the last day; empty if the file is older, missing or damaged."""
    try:
        known = json.loads(KNOWN.read_text()) if time.time() - KNOWN.stat().st_mtime < DAY_SECS else {}
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def ask(subject: str, code: str, fix: str) -> tuple[object, list[Finding]]:
    """The same, asked anew."""
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
    supported = sys.version_info >= (3, 11) and sys.platform != "win32"
    text = f"{platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    fix = "" if supported else "uv python install 3.12 && uv sync"
    return [Finding("ok" if supported else "FAIL", "python", text, fix)]


def packages() -> list[Finding]:
    """Versions of the main packages."""
    found = {name: installed(name) for name in PACKAGES}
    found["faiss"] = found.pop("faiss-gpu") or installed("faiss-cpu")
    missing = [name for name, number in found.items() if not number]
    if missing:
        return [Finding("FAIL", "packages", f"not installed: {', '.join(missing)}", "uv sync")]
    return [Finding("ok", "packages", ", ".join(f"{name} {number}" for name, number in found.items()))]


def installed(name: str) -> str:
    """The version of a package; empty if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def torch_gpus() -> list[Finding]:
    """The GPUs visible to torch. If only the driver has one, torch was built without CUDA or for another version."""
    names, problem = run_probe("torch", TORCH, "uv sync --reinstall-package torch")
    if isinstance(names, list) and not names and shutil.which("nvidia-smi"):
        why = "nvidia-smi is here, but torch sees no GPU: stages will run on the CPU"
        return [Finding("warn", "torch", why, "nvidia-smi; python -m torch.utils.collect_env")]
    return problem or [Finding("ok", "torch", "; ".join(names) if isinstance(names, list) and names else "no GPU: CPU")]


def faiss_kmeans() -> list[Finding]:
    """Whether faiss runs k-means, on a GPU if one is visible to it, which is never so for faiss-cpu."""
    gpus, problem = run_probe("faiss", FAISS, "uv sync --reinstall-package faiss-gpu")
    if gpus == 0 and shutil.which("nvidia-smi"):
        why = "k-means works, but faiss sees no GPU, though nvidia-smi is here: it will run on the CPU"
        return [Finding("warn", "faiss", why, "nvidia-smi; uv sync --reinstall-package faiss-gpu")]
    return problem or [Finding("ok", "faiss", f"k-means works on {f'{gpus} GPUs' if gpus else 'the CPU'}")]


def prefect_server() -> list[Finding]:
    """Whether Prefect's server can be loaded: an incompatible fastapi shows only here."""
    _, problem = run_probe("prefect server", "import prefect.server.api.server; print(1)", "uv sync")
    return problem or [Finding("ok", "prefect server", "can start")]


def prefect_runs(fix: bool) -> list[Finding]:
    """Runs of dead processes, as the server knows them. Importing Prefect takes as long as all other checks."""
    found, problem = ask("prefect", RUNS.format(fix=fix), "uv sync")
    return problem or [Finding(**one) for one in cast("list[dict]", found)]


def free_space(folders: dict[str, Path]) -> list[Finding]:
    """Free space where data and DVC's cache are."""
    findings = []
    for subject, folder in folders.items():
        existing = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
        free = shutil.disk_usage(existing).free
        low = free < LOW_DISK_BYTES
        fix = "dvc gc --workspace (drops results of earlier params and code); dvc cache dir FOLDER" if low else ""
        findings.append(Finding("warn" if low else "ok", subject, f"{human_size(free)} free", fix))
    return findings
