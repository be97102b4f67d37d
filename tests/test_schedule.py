"""How stages at once share GPUs and cores."""

import os

from pipeline.gpus import Gpus
from pipeline.schedule import cores_env


def test_two_gpus_are_handed_out_one_a_stage_and_a_stage_may_ask_for_both():
    gpus = Gpus(["0", "1"])
    one, two = gpus.take(1), gpus.take(1)
    assert (one, two) == (["0"], ["1"]) and not gpus.enough(1) and gpus.enough(0)
    gpus.give_back(two)
    assert not gpus.enough(2)
    gpus.give_back(one)
    assert gpus.env(gpus.take(4)) == {"CUDA_VISIBLE_DEVICES": "0,1", "NPROC": "2"}
    assert Gpus([]).enough(8) and Gpus([]).env([]) == {}


def test_stages_may_share_gpus_and_go_where_most_room_is():
    gpus = Gpus(["0", "1"], each=2)
    assert gpus.slots == 4
    assert [gpus.take(1) for _ in range(3)] == [["0"], ["1"], ["0"]] and gpus.enough(1) and not gpus.enough(2)
    assert gpus.take(1) == ["1"] and not gpus.enough(1)
    gpus.give_back(["0"])
    assert gpus.take(1) == ["0"]


def test_stages_at_once_share_the_cores_unless_told_otherwise(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    threads = [cores_env(slots).get("OMP_NUM_THREADS") for slots in (1, 2, 3, 16)]
    assert threads == [None, "4", "2", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert cores_env(2) == {}
