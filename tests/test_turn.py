"""Who may run stages here, and what a run is told before its first stage.

Run: uv run pytest tests/test_turn.py
"""

import subprocess
import sys

import pytest
import tiny

from pipeline import turn
from pipeline.errors import PipelineError


@pytest.fixture
def project(tmp_path_factory, tmp_path, monkeypatch):
    """Up to date; this process works in it."""
    root = tiny.project(tmp_path_factory, tmp_path / "project")
    monkeypatch.chdir(root)
    monkeypatch.setenv("PYTHONPATH", str(tiny.ROOT))
    return root


def test_the_flow_uses_the_turn_that_the_command_line_began_and_the_next_one_takes_its_own(project):
    turn.begin()
    [begun] = turn.BEGUN
    with turn.only_run() as used:
        assert used is begun and not turn.BEGUN
        repaired, status = used.plan()
        with pytest.raises(PipelineError, match="running here already"), turn.only_run():
            pass
        turn.begin()
        assert not turn.BEGUN, "somebody has it: the flow says so"
    assert repaired == [] and status.reasons == {} and len(status.nodes) == 5
    with turn.only_run() as another:
        assert another is not begun and another.plan()[1].nodes == status.nodes


def test_what_is_half_written_is_repaired_before_the_status_is_asked(project):
    (project / "dvc.lock").write_text("")
    with turn.only_run() as taken:
        repaired, _ = taken.plan()
    assert any("dvc.lock is empty" in sentence for sentence in repaired)


def test_impossible_params_are_refused_if_a_stage_is_to_run(project):
    tiny.add_check(project)
    (project / "params.yaml").write_text(tiny.PARAMS.replace("seed: 0, rate", "seed: -1, rate"))
    with turn.only_run() as taken, pytest.raises(PipelineError, match="first.seed = -1: expected 0 or more"):
        taken.plan()


@pytest.mark.parametrize(("code", "words"), [("import sys; sys.exit(3)", "ended with status 3"), (None, "Traceback")])
def test_a_planner_that_breaks_fails_the_run_with_its_words(code, words, project, monkeypatch):
    if code:
        monkeypatch.setattr(turn, "PLANNER", ["-c", code])
    else:
        (project / ".dvc/tmp/semtok").mkdir(parents=True, exist_ok=True)
        (project / "dvc.lock").unlink()
        (project / "dvc.lock").mkdir()  # nothing foresees a folder
    with turn.only_run() as taken, pytest.raises((RuntimeError, PipelineError), match=words):
        taken.plan()


def test_a_run_imports_dvc_only_once_a_stage_has_run():
    code = "import sys, pipeline.run; print(sorted(name for name in sys.modules if name.split('.')[0] == 'dvc'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tiny.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
