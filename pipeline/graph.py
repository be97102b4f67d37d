"""DVC's stages as plain nodes. Beside this file only outlook.py (what DVC says of them) and repair.py (where its cache
is) touch DVC's Python objects.

Run:    uv run python -m pipeline.graph          prints each stage, what it waits for, its settings
Expect: the edges of `dvc dag --dot` (tests/test_graph.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from dvc.repo import Repo


class Settings(BaseModel):
    """`meta: {prefect: {…}}` of a stage in dvc.yaml, which DVC itself ignores."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    retries: int = Field(0, ge=0)
    retry_delay_secs: int = Field(10, ge=0)
    tags: list[str] = []
    gpus: int = Field(1, ge=0)  # of those the machine has; 0 for a stage without use for one


@dataclass(frozen=True)
class Node:
    """One stage, or one member of a matrix. `upstream` are the nodes whose outputs it reads."""

    name: str
    upstream: tuple[str, ...]
    desc: str
    frozen: bool
    settings: Settings
    metrics: tuple[str, ...]  # JSON files
    plots: tuple[str, ...]  # TSV files, or folders of them

    @property
    def waits_for(self) -> tuple[str, ...]:
        """The nodes that run before it: DVC does not look above a frozen one."""
        return () if self.frozen else self.upstream


def read_graph(repo: Repo) -> dict[str, Node]:
    """All nodes by name, each after the ones it waits for, otherwise in the order of dvc.yaml."""
    graph = repo.index.graph
    nodes = {stage.addressing: to_node(stage, graph.successors(stage)) for stage in graph}
    order = TopologicalSorter({name: node.upstream for name, node in nodes.items()})
    return {name: nodes[name] for name in order.static_order()}


def to_node(stage: Any, upstream: Iterable[Any]) -> Node:
    """A node of one of DVC's stages."""
    metrics = tuple(out.def_path for out in stage.outs if out.metric)
    plots = tuple(out.def_path for out in stage.outs if out.plot)
    return Node(
        stage.addressing, tuple(sorted(other.addressing for other in upstream)), stage.desc or "", stage.frozen,
        to_settings(stage.addressing, (stage.meta or {}).get("prefect", {})), metrics, plots,
    )  # fmt: skip


def to_settings(name: str, meta: Any) -> Settings:
    """Checked settings; `PipelineError` names each wrong key or value."""
    try:
        return Settings.model_validate(meta)
    except ValidationError as error:
        wrong = [f"meta.prefect.{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise PipelineError(
            f"dvc.yaml: {name}: {'; '.join(wrong)}; it may have {', '.join(Settings.model_fields)}"
        ) from None


def plan(
    nodes: dict[str, Node], targets: Iterable[str] = (), downstream: bool = False, single: bool = False
) -> dict[str, Node]:
    """The nodes to run, in order, as `dvc repro` would choose them.

    Targets and what they need; with `downstream` targets and what needs them; with `single` the targets alone. A
    target is a stage, one matrix member (`generator@kmeans-ar`), a pattern of them (`generator@kmeans-*`) or all of
    them (`generator`); none means everything.
    """
    chosen = {name for target in targets for name in named(nodes, target)}
    if not chosen and (downstream or single):
        raise PipelineError(f"{'downstream' if downstream else 'single'} of what? Name a stage: {', '.join(nodes)}")
    if not chosen:
        return nodes
    if not single:
        edges = {name: set(node.waits_for) for name, node in nodes.items()}
        chosen = reach(chosen, reverse(edges) if downstream else edges)
    return {name: node for name, node in nodes.items() if name in chosen}


def named(nodes: dict[str, Node], target: str) -> list[str]:
    """Names of the nodes that a target means."""
    if found := [name for name in nodes if fnmatchcase(name, target) or name.split("@")[0] == target]:
        return found
    raise PipelineError(f"{target}: no such stage; dvc.yaml has {', '.join(sorted(nodes))}")


def reverse(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same edges, turned round."""
    return {name: {other for other, targets in edges.items() if name in targets} for name in edges}


def reach(start: set[str], edges: dict[str, set[str]]) -> set[str]:
    """`start` and all that can be reached from it."""
    seen, todo = set(start), list(start)
    while todo:
        fresh = edges[todo.pop()] - seen
        seen |= fresh
        todo += fresh
    return seen


def main() -> None:
    from dvc.repo import Repo

    with Repo() as repo:
        for node in read_graph(repo).values():
            print(
                node.name,
                "<-",
                ", ".join(node.upstream) or "nothing",
                node.settings if node.settings != Settings() else "",
            )


if __name__ == "__main__":
    main()
