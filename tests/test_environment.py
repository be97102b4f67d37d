"""`semtok doctor` on packages, GPUs and disk: what breaks, hangs or is missing is named with the command that helps.

Run: uv run pytest tests/test_environment.py
"""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import environment


def test_a_full_disk_is_warned_of(monkeypatch, tmp_path):
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_234_000_000))
    [finding] = environment.free_space({"data": tmp_path / "not/yet/there"})
    assert finding.state == "warn" and finding.text == "1.2 GB free" and "dvc gc" in finding.fix


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise TypeError('Body() got an unexpected argument')", "TypeError: Body() got an unexpected argument"),
        ("import os; os.abort()", "ended with status -6"),
        ("import time; time.sleep(60)", "no answer in 0.5 s"),
        ("import no_such_package", "No module named 'no_such_package'"),
    ],
)  # fmt: skip
def test_a_package_that_breaks_hangs_or_crashes_is_a_failure_and_no_more(code, said, monkeypatch):
    monkeypatch.setattr(environment, "PROBE_SECS", 0.5 if "sleep" in code else 30)
    answer, [finding] = environment.run_probe("it", code, "uv sync")
    assert answer is None and finding.state == "FAIL" and said in finding.text and finding.fix == "uv sync"


def test_what_a_package_answered_is_remembered_until_another_is_installed_but_no_failure(monkeypatch):
    monkeypatch.setattr(environment.shutil, "which", lambda _: None)
    counts = "from pathlib import Path; p = Path('count'); p.write_text(p.exists() and p.read_text() + 'x' or 'x')\n"
    for expected in (1, 1):
        assert environment.run_probe("it", f"{counts}print(len(p.read_text()))", "") == (expected, [])
    monkeypatch.setattr(environment, "installation", lambda: "another version of torch")
    assert environment.run_probe("it", f"{counts}print(len(p.read_text()))", "") == (2, [])
    for state in ("FAIL", "FAIL"):
        assert environment.run_probe("it", "exit(1)", "")[1][0].state == state
    environment.KNOWN.write_text("[1")
    assert environment.run_probe("it", f"{counts}print(len(p.read_text()))", "") == (3, [])


def test_gpus_come_and_go_so_where_a_driver_is_nothing_is_remembered_or_recalled(monkeypatch):
    driver: list[str] = []
    monkeypatch.setattr(environment.shutil, "which", lambda _: driver[0] if driver else None)
    code = "from pathlib import Path; print(len(Path('gpus').read_text()))"
    Path("gpus").write_text("")
    assert environment.run_probe("it", code, "") == environment.run_probe("it", code, "") == (0, [])
    driver.append("/usr/bin/nvidia-smi")
    Path("gpus").write_text("x")
    kept = environment.KNOWN.read_text()
    assert environment.run_probe("it", code, "") == (1, []) and environment.KNOWN.read_text() == kept


def test_after_a_day_a_package_is_asked_anew(monkeypatch):
    monkeypatch.setattr(environment.shutil, "which", lambda _: None)
    code = "from pathlib import Path; print(Path('said').read_text())"
    for said, age_secs, answer in (("1", 0, 1), ("2", 0, 1), ("3", environment.DAY_SECS, 3)):
        Path("said").write_text(said)
        if age_secs:
            os.utime(environment.KNOWN, (time.time() - age_secs,) * 2)
        assert environment.run_probe("it", code, "") == (answer, [])


@pytest.mark.parametrize(
    ("check", "gpus", "driver", "state", "said"),
    [
        (environment.torch_gpus, [], False, "ok", "no GPU"),
        (environment.torch_gpus, [], True, "warn", "torch sees no GPU"),
        (environment.torch_gpus, ["H200, 139 GiB"], True, "ok", "H200, 139 GiB"),
        (environment.faiss_kmeans, 0, False, "ok", "works on the CPU"),
        (environment.faiss_kmeans, 0, True, "warn", "faiss sees no GPU"),
        (environment.faiss_kmeans, 2, True, "ok", "works on 2 GPUs"),
    ],
)
def test_a_gpu_that_torch_or_faiss_does_not_see_is_warned_of(check, gpus, driver, state, said, monkeypatch):
    monkeypatch.setattr(environment, "run_probe", lambda *_: (gpus, []))
    monkeypatch.setattr(environment.shutil, "which", lambda _: "/usr/bin/nvidia-smi" if driver else None)
    [finding] = check()
    assert finding.state == state and said in finding.text


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(environment, "installed", lambda name: "" if name in ("timm", "faiss-gpu") else "1.0")
    [finding] = environment.packages()
    assert (finding.state, finding.text, finding.fix) == ("FAIL", "not installed: timm", "uv sync")
