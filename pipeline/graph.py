"""DVC's stages as plain nodes with the edges of `dvc dag`, and the choice of those that a run needs.

Stages of all files dvc.yaml are one graph. A stage has the name that its own file gives it; DVC's address of one that
is not in the root's file has that file before it: `studies/dvc.yaml:probe`.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from graphlib import TopologicalSorter
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import PipelineError


class Settings(BaseModel):
    """`meta: {prefect: {…}}` of a stage in dvc.yaml, which DVC itself ignores."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    retries: int = Field(0, ge=0)
    retry_delay_secs: int = Field(10, ge=0)
    tags: list[str] = []
    gpus: int = Field(1, ge=0)  # of those the machine has; 0 for a stage that uses none
    checks_params: bool = False  # its params may stop it, but do not change its outputs


@dataclass(frozen=True)
class Node:
    """One stage, or one member of a matrix. `upstream` are the nodes whose outputs it reads."""

    name: str
    address: str  # for DVC
    upstream: tuple[str, ...]
    desc: str
    frozen: bool
    settings: Settings
    metrics: tuple[str, ...]  # JSON files
    plots: tuple[str, ...]  # TSV files, or folders of them

    @property
    def waits_for(self) -> tuple[str, ...]:
        """The nodes that run before it. DVC does not look upstream of a frozen stage."""
        return () if self.frozen else self.upstream


def name_of(address: str) -> str:
    """`probe@x` of DVC's address `studies/dvc.yaml:probe@x`."""
    return address.rpartition(":")[2]


def path_of(out: Any) -> str:
    """The path of an output of DVC, from the root."""
    return os.path.relpath(out.fs_path)


def read_graph(repo: Any) -> dict[str, Node]:
    """All nodes of a DVC repository by name, each after the ones it waits for, otherwise in the order of dvc.yaml."""
    graph = repo.index.graph
    found = [to_node(stage, graph.successors(stage)) for stage in graph]
    nodes = {node.name: node for node in found}
    if doubled := [node.address for node in found if nodes[node.name] is not node]:
        raise PipelineError(f"{', '.join(doubled)}: another dvc.yaml has a stage of this name: rename one")
    order = TopologicalSorter({name: node.upstream for name, node in nodes.items()})
    return {name: nodes[name] for name in order.static_order()}


def to_node(stage: Any, upstream: Iterable[Any]) -> Node:
    """The node of a stage of DVC."""
    return Node(
        name=name_of(stage.addressing),
        address=stage.addressing,
        upstream=tuple(sorted(name_of(other.addressing) for other in upstream)),
        desc=stage.desc or "",
        frozen=stage.frozen,
        settings=to_settings(stage.addressing, (stage.meta or {}).get("prefect", {})),
        metrics=tuple(path_of(out) for out in stage.outs if out.metric or out.def_path.endswith("/metrics.json")),
        plots=tuple(path_of(out) for out in stage.outs if out.plot),
    )


def to_settings(name: str, meta: Any) -> Settings:
    """Checked settings; `PipelineError` names each wrong key or value."""
    try:
        return Settings.model_validate(meta)
    except ValidationError as error:
        wrong = [f"meta.prefect.{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        known = ", ".join(Settings.model_fields)
        raise PipelineError(f"dvc.yaml: {name}: {'; '.join(wrong)}; it may have {known}") from None


def select(
    nodes: dict[str, Node], targets: Iterable[str] = (), downstream: bool = False, single: bool = False
) -> dict[str, Node]:
    """The nodes to run, in order, as `dvc repro` would select them.

    Targets and their upstream; with `downstream`, targets and their downstream; with `single`, the targets alone. A
    target is a stage (`generator`: all members of its matrix), one member (`generator@kmeans-ar`) or a pattern of
    members (`generator@kmeans-*`). No target means everything.
    """
    selected = {name for target in targets for name in match(nodes, target)}
    if not selected and (downstream or single):
        raise PipelineError(f"{'downstream' if downstream else 'single'} of what? Name a stage: {', '.join(nodes)}")
    if not selected:
        return nodes
    if not single:
        edges = {name: set(node.waits_for) for name, node in nodes.items()}
        selected = reach(selected, reverse(edges) if downstream else edges)
    return {name: node for name, node in nodes.items() if name in selected}


def match(nodes: dict[str, Node], target: str) -> list[str]:
    """Names of the nodes that match a target, a name or DVC's address."""

    def fits(one: str) -> bool:
        return fnmatchcase(one, target) or one.split("@")[0] == target

    if found := [node.name for node in nodes.values() if fits(node.name) or fits(node.address)]:
        return found
    raise PipelineError(f"{target}: no such stage; there is {', '.join(sorted(nodes))}")


def reverse(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same edges in the opposite direction."""
    return {name: {other for other, targets in edges.items() if name in targets} for name in edges}


def reach(start: set[str], edges: dict[str, set[str]]) -> set[str]:
    """`start` and every node that can be reached from it."""
    reached, todo = set(start), list(start)
    while todo:
        new = edges[todo.pop()] - reached
        reached |= new
        todo += new
    return reached
