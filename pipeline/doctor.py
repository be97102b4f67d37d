"""Check the installation, the machine and this repository, and list what a crash has left.

Run:    semtok doctor [--fix]
Expect: one line per check: ok, or warn or FAIL with a command that helps; ten seconds, and once for every object of
        DVC's cache the time to read it. No network is needed. That torch, faiss and Prefect's server work is
        remembered for a day, except where NVIDIA's driver is.
        Nothing is changed without --fix, which repairs what a crash left half written and removes checkpoints of
        finished trainings and damaged objects of the cache.
"""

from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

from pipeline.finding import Finding

CHECKS = {  # subject: function
    "python": "environment.interpreter",
    "packages": "environment.packages",
    "git": "repository.git",
    "dvc": "repository.dvc_config",
    "params.yaml": "repository.params",
    "torch": "environment.torch_gpus",
    "faiss": "environment.faiss_kmeans",
    "disk": "repository.disk",
    "dvc cache": "repository.cache",
    "cache objects": "objects.check",
    "issues": "repository.issues",
    "unfinished": "cleanup.partial_artifacts",
    "scratch": "cleanup.checkpoints",
    "prefect server": "environment.prefect_server",
    "prefect": "environment.prefect_runs",
}
LONG = ("prefect", "params.yaml")  # subjects that wait for a process: they begin first
FIXING = ("cache objects", "issues", "unfinished", "scratch", "prefect")  # subjects whose function takes `fix`


def main(fix: bool) -> int:
    """Print all findings as they come; 1 if one is FAIL, else 0."""
    failed = False
    with ThreadPoolExecutor(4) as pool:
        order = sorted(CHECKS.items(), key=lambda check: check[0] not in LONG)
        begun = {subject: pool.submit(run_check, fix, (subject, name)) for subject, name in order}
        for subject in CHECKS:
            for finding in begun[subject].result():
                failed |= finding.state == "FAIL"
                print(f"{finding.state:4}  {finding.subject:14}  {finding.text}", flush=True)
                if finding.fix:
                    print(f"{'':22}→ {finding.fix}", flush=True)
    return 1 if failed else 0


def run_check(fix: bool, check: tuple[str, str]) -> list[Finding]:
    """The findings of a check. If it, or a package that it imports, fails, that is a finding, too."""
    subject, (module, _, function) = check[0], check[1].partition(".")
    try:
        call = getattr(import_module(f"pipeline.{module}"), function)
        return call(fix) if subject in FIXING else call()
    except Exception as error:
        return [Finding("FAIL", subject, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")]
