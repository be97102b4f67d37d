"""How stages at once share GPUs and cores, and which stages need no process of their own.

Run: uv run pytest tests/test_schedule.py
"""

import os
from concurrent.futures import Future
from dataclasses import replace

import pytest

from pipeline.errors import PipelineError
from pipeline.gpus import Gpus
from pipeline.graph import Node, Settings
from pipeline.repro import Children
from pipeline.schedule import Freshness, Run, cores_env
from pipeline.stale import Status

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DVC's own


def test_two_gpus_are_assigned_one_per_stage_and_a_stage_may_ask_for_both():
    gpus = Gpus(["0", "1"])
    one, two = gpus.acquire(1), gpus.acquire(1)
    assert (one, two) == (["0"], ["1"]) and not gpus.available(1) and gpus.available(0)
    gpus.release(two)
    assert not gpus.available(2)
    gpus.release(one)
    assert gpus.env(gpus.acquire(4)) == {"CUDA_VISIBLE_DEVICES": "0,1", "NPROC": "2"}
    assert Gpus([]).available(8) and Gpus([]).env([]) == {}


def test_stages_may_share_gpus_and_go_where_most_room_is():
    gpus = Gpus(["0", "1"], per_gpu=2)
    assert gpus.slots == 4
    assert [gpus.acquire(1) for _ in range(3)] == [["0"], ["1"], ["0"]] and gpus.available(1) and not gpus.available(2)
    assert gpus.acquire(1) == ["1"] and not gpus.available(1)
    gpus.release(["0"])
    assert gpus.acquire(1) == ["0"]


def test_stages_at_once_share_the_cores_unless_the_environment_says_how_many(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    threads = [cores_env(slots).get("OMP_NUM_THREADS") for slots in (1, 2, 3, 16)]
    assert threads == [None, "4", "2", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert cores_env(2) == {}


def node(name: str, *upstream: str) -> Node:
    return Node(name, name, upstream, "", False, Settings(), (), ())


def status(*stale: str) -> Status:
    return Status({}, {name: ["changed"] for name in stale}, {}, set(), {})


def test_dvc_is_asked_again_once_an_upstream_changed_and_what_it_then_calls_unchanged_starts_no_process():
    outcomes: dict[str, tuple[str, float]] = {}
    answers = [status("a"), status()]
    freshness = Freshness(status("code"), outcomes, lambda: answers.pop(0))
    assert not freshness.is_fresh(node("code"))
    outcomes["code"] = ("ran", 1.0)
    assert [freshness.is_fresh(node(name, "code")) for name in ("a", "b", "c")] == [False, True, True]
    assert len(answers) == 1, "asked once"
    outcomes |= {"b": ("unchanged", 0.0), "a": ("restored", 1.0)}
    assert freshness.is_fresh(node("d", "b")) and len(answers) == 1, "nothing upstream of it changed"
    assert freshness.is_fresh(node("e", "a")) and not answers


def test_a_stage_of_which_dvc_cannot_tell_is_left_to_dvc():
    def refuse() -> Status:
        raise PipelineError("dvc.lock is cut off")

    outcomes = {"code": ("ran", 1.0)}
    assert not Freshness(status("code"), outcomes, refuse).is_fresh(node("a", "code"))
    busy = Status({}, {}, {}, {"a"}, {})
    assert not Freshness(status("code"), outcomes, lambda: busy).is_fresh(node("a", "code"))


class Ended(Future):
    """A task's future whose state is known."""

    state = "ended"

    def wait(self) -> None:
        self.result(timeout=10)


def test_stages_that_dvc_skips_wait_for_no_job_and_no_gpu(monkeypatch):
    begun: list[tuple[str, bool, list[str]]] = []
    long = Ended()

    class Recorded(Run):
        def submit(self, node, fresh, gpus, futures):
            begun.append((node.name, fresh, gpus))
            if node.name == "long":
                return long
            ended = Ended()
            ended.set_result(None)
            if [name for name, *_ in begun] == ["long", "a", "b"]:
                long.set_result(None)  # only now: a and b did not wait for it
            return ended

    nodes = {one.name: one for one in (node("long"), node("a"), node("b", "a"), node("later"))}
    nodes = {name: replace(one, settings=Settings(gpus=1)) for name, one in nodes.items()}
    freshness = Freshness(status("long", "later"), {}, lambda: status("long", "later"))
    run = Recorded(nodes, freshness, False, 1, Gpus(["7"]), Children())
    assert run.execute() == dict.fromkeys(nodes, "ended")
    assert begun == [("long", False, ["7"]), ("a", True, []), ("b", True, []), ("later", False, ["7"])]
