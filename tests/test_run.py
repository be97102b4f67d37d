"""What `semtok run` says before and after its stages, and what it refuses.

Run: uv run pytest tests/test_run.py
"""

import logging
import subprocess
import sys

import pytest

from pipeline.errors import PipelineError
from pipeline.flow import announcement, check_counts, how_to_go_on
from pipeline.repro import Child, StageFailed
from pipeline.task import is_news


@pytest.mark.parametrize("counts", [{"jobs": 0, "per_gpu": 1}, {"jobs": None, "per_gpu": 0}])
def test_bad_counts_are_refused(counts):
    with pytest.raises(PipelineError, match=r"(jobs|per_gpu) = 0: expected 1 or more"):
        check_counts(**counts)


@pytest.mark.parametrize(
    ("stale", "affected", "said"),
    [
        ([], [], "3 stages, 3 of them up to date"),
        (["a"], ["a", "c"], "3 stages, 1 of them up to date; to run: a; then, if their inputs change: c"),
        (["a", "b", "c"], [], "3 stages, 0 of them up to date; to run: a, b, c"),
        (["elsewhere"], ["elsewhere"], "3 stages, 3 of them up to date"),
    ],
)
def test_the_first_line_lists_what_will_run(stale, affected, said):
    assert announcement(["a", "b", "c"], stale, affected) == said


def test_an_interrupted_run_names_the_command_that_continues_it():
    asked = {"targets": ["generator@kmeans-*"], "downstream": True, "single": False, "jobs": 2, "per_gpu": 3}
    assert "`semtok run 'generator@kmeans-*' --downstream --jobs 2 --per-gpu 3`" in how_to_go_on(asked)
    assert "`semtok run`" in how_to_go_on({"targets": [], "jobs": None, "per_gpu": 1})


FAILS = """
import sys
print("\\r left:  50%|##  | 3/6", end="", flush=True)
print({said!r}, flush=True)
sys.exit(1)
"""


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("error: left.value = -1: expected 0 or more", "error: left.value = -1: expected 0 or more"),
        ("ERROR: failed to run: python, exited with 3", "ERROR: failed to run: python, exited with 3"),
        ("ERROR: failed to run: python, exited with -9", "left: its process was killed, as the system does"),
    ],
)
def test_a_failed_stage_is_explained_by_its_error_and_not_by_its_progress_bar(said, message):
    command = [sys.executable, "-c", FAILS.format(said=said)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        child = Child("left", process)
        assert [*child.lines(every_secs=1)][-1] == said
        with pytest.raises(StageFailed, match=message) as failed:
            child.outcome()
    assert "%|" not in str(failed.value)


def test_of_prefects_lines_about_a_task_those_that_say_nothing_new_are_left_out():
    def record(text: str, exc_info: object = None) -> logging.LogRecord:
        return logging.LogRecord("prefect.task_runs", logging.ERROR, "", 0, text, None, exc_info)

    assert is_news(record("Finished in state Failed('left.value = -1')"))
    assert not is_news(record("Finished in state Cached('nothing has changed')"))
    assert not is_news(record("Task run failed with state: …", (None, None, None))), "it would print NoneType: None"
