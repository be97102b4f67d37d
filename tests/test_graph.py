"""DVC's graph as nodes: the same edges as `dvc dag`, the same choice as `dvc repro`, stages in an order that works.

Run: uv run pytest tests/test_graph.py
"""

import re
import subprocess
import sys

import mini
import pytest
import toy as toys
from ruamel.yaml import YAML


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return mini.build(tmp_path_factory.mktemp("graph") / "project")


def ask(root, code: str) -> str:
    """What lines of Python print, with all of pipeline.graph and `read` at hand, in a process of its own."""
    lines = f"from dvc.repo import Repo\nfrom pipeline.graph import *\nread = lambda: read_graph(Repo())\n{code}"
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", lines], cwd=root, capture_output=True, text=True, check=True
    ).stdout.strip()


def dvc_edges(root, *target: str) -> set[tuple[str, str]]:
    """(stage, what waits for it) of `dvc dag --dot`."""
    return set(re.findall(r'"(.+?)" -> "(.+?)"', mini.dvc(root, "dag", "--dot", *target)))


@pytest.mark.parametrize("where", ["mini", "real"])
def test_edges_are_those_of_dvc_dag(where, project):
    root = project if where == "mini" else toys.ROOT
    code = "print([(other, node.name) for node in read().values() for other in node.upstream])"
    edges = set(eval(ask(root, code)))
    assert edges == dvc_edges(root) and len(edges) >= 7


def test_every_node_comes_after_those_it_waits_for(project):
    order = eval(ask(project, "print([(n.name, n.upstream) for n in read().values()])"))
    place = {name: number for number, (name, _) in enumerate(order)}
    assert all(place[other] < place[name] for name, upstream in order for other in upstream)
    assert place.keys() == mini.STAGES.keys()


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("['join']", {"first", "left", "right@1", "right@2", "join"}),
        ("['right']", {"first", "right@1", "right@2"}),
        ("['right@2', 'alone'], single=True", {"right@2", "alone"}),
        ("['r*@[12]'], single=True", {"right@1", "right@2"}),
        ("['left'], downstream=True", {"left", "join", "last"}),
        ("[]", set(mini.STAGES)),
    ],
)
def test_targets_mean_what_they_mean_to_dvc_repro(call, expected, project):
    assert set(eval(ask(project, f"print(list(plan(read(), {call})))"))) == expected


def test_an_unknown_target_is_named_with_those_that_exist(project):
    code = "try: plan(read(), ['lfet'])\nexcept PipelineError as error: print(error)"
    assert ask(project, code).startswith("lfet: no such stage; dvc.yaml has alone, first, join")


def test_a_frozen_stage_cuts_what_is_above_it_as_it_does_for_dvc(project):
    path = project / "dvc.yaml"
    before = path.read_text()
    path.write_text(before.replace("  left:\n", "  left:\n    frozen: true\n", 1))
    lines = [f"print(list(plan(read(), {call})))" for call in ("['left']", "['join']", "['first'], downstream=True")]
    told = [set(eval(line)) for line in ask(project, "\n".join(lines)).splitlines()]
    dry = mini.dvc(project, "repro", "--dry", "left")
    path.write_text(before)
    assert told[0] == {"left"} and "'first'" not in dry
    assert told[1] == {"left", "first", "right@1", "right@2", "join"}
    assert told[2] == {"first", "right@1", "right@2", "join", "last"}


def test_downstream_and_single_need_a_target(project):
    code = "try: plan(read(), [], single=True)\nexcept PipelineError as error: print(error)"
    assert ask(project, code).startswith("single of what? Name a stage")


def settings_of(project, meta: dict) -> str:
    path = project / "dvc.yaml"
    before = path.read_text()
    text = YAML(typ="safe").load(before)
    text["stages"]["left"]["meta"] = {"prefect": meta}
    with open(path, "w") as file:
        YAML(typ="safe").dump(text, file)
    code = "try: print(read()['left'].settings)\nexcept PipelineError as error: print(error)"
    try:
        return ask(project, code)
    finally:
        path.write_text(before)


def test_settings_come_from_meta_and_bad_ones_are_named(project):
    assert settings_of(project, {"retries": 2, "tags": ["gpu"], "gpus": 4}) == (
        "retries=2 retry_delay_secs=10 tags=['gpu'] gpus=4"
    )
    assert "left: meta.prefect.retries" in settings_of(project, {"retries": -1})
    assert "meta.prefect.gpu:" in settings_of(project, {"gpu": 1})
