"""DVC's graph as nodes: the edges of `dvc dag`, the selection of `dvc repro`, an order that works.

Run: uv run pytest tests/test_graph.py
"""

import contextlib
import re

import mini
import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from pipeline.errors import PipelineError
from pipeline.graph import Node, name_of, read_graph, select

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DVC's own


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return mini.build(tmp_path_factory.mktemp("graph") / "project")


@pytest.fixture(scope="module")
def nodes(project):
    return read(project)


def read(root) -> dict[str, Node]:
    with contextlib.chdir(root), Repo() as repo:
        return read_graph(repo)


def dvc_edges(root, *target: str) -> set[tuple[str, str]]:
    """(stage, what waits for it) of `dvc dag --dot`, by their names."""
    found = re.findall(r'"(.+?)" -> "(.+?)"', mini.dvc(root, "dag", "--dot", *target))
    return {(name_of(one), name_of(other)) for one, other in found}


@pytest.mark.parametrize("where", ["mini", "real"])
def test_edges_are_those_of_dvc_dag(where, project):
    root = project if where == "mini" else mini.ROOT
    edges = {(other, node.name) for node in read(root).values() for other in node.upstream}
    assert edges == dvc_edges(root) and len(edges) >= 7


def test_every_node_comes_after_those_it_waits_for(nodes):
    place = {name: number for number, name in enumerate(nodes)}
    assert all(place[other] < place[name] for name, node in nodes.items() for other in node.upstream)
    assert place.keys() == mini.STAGES


@pytest.mark.parametrize(
    ("targets", "options", "expected"),
    [
        (["join"], {}, {"code", "first", "left", "right@1", "right@2", "join"}),
        (["right"], {}, {"code", "first", "right@1", "right@2"}),
        (["right@2", "alone"], {"single": True}, {"right@2", "alone"}),
        (["r*@[12]"], {"single": True}, {"right@1", "right@2"}),
        (["studies/dvc.yaml:right"], {"single": True}, {"right@1", "right@2"}),
        (["studies/dvc.yaml:right@2"], {}, {"code", "first", "right@2"}),
        (["left"], {"downstream": True}, {"left", "join", "last"}),
        ([], {}, mini.STAGES),
    ],
)
def test_targets_mean_what_they_mean_to_dvc_repro(targets, options, expected, nodes):
    assert select(nodes, targets, **options).keys() == expected


def test_an_unknown_target_is_named_with_those_that_exist_and_options_need_a_target(nodes):
    with pytest.raises(PipelineError, match="^lfet: no such stage; there is alone, code, first, join"):
        select(nodes, ["lfet"])
    with pytest.raises(PipelineError, match="^dvc.yaml:right: no such stage"):
        select(nodes, ["dvc.yaml:right"])
    with pytest.raises(PipelineError, match=r"^single of what\? Name a stage"):
        select(nodes, [], single=True)


def test_a_frozen_stage_cuts_what_is_above_it_as_it_does_for_dvc(project):
    path = project / "dvc.yaml"
    before = path.read_text()
    path.write_text(before.replace("  left:\n", "  left:\n    frozen: true\n", 1))
    nodes, dry = read(project), mini.dvc(project, "repro", "--dry", "left")
    path.write_text(before)
    assert select(nodes, ["left"]).keys() == {"left"} and "'first'" not in dry
    assert select(nodes, ["join"]).keys() == {"left", "code", "first", "right@1", "right@2", "join"}
    assert select(nodes, ["first"], downstream=True).keys() == {"first", "right@1", "right@2", "join", "last"}


def read_with_meta(project, meta: dict) -> dict[str, Node]:
    """The graph if the stage `left` has these settings."""
    path = project / "dvc.yaml"
    before = path.read_text()
    text = YAML(typ="safe").load(before)
    text["stages"]["left"]["meta"] = {"prefect": meta}
    with open(path, "w") as file:
        YAML(typ="safe").dump(text, file)
    try:
        return read(project)
    finally:
        path.write_text(before)


def test_settings_come_from_meta_and_bad_ones_are_named(project):
    settings = read_with_meta(project, {"retries": 2, "tags": ["gpu"], "gpus": 4})["left"].settings
    assert str(settings) == "retries=2 retry_delay_secs=10 tags=['gpu'] gpus=4 checks_params=False"
    for meta, key in (({"retries": -1}, "retries"), ({"gpu": 1}, "gpu")):
        with pytest.raises(PipelineError, match=f"left: meta.prefect.{key}:"):
            read_with_meta(project, meta)
