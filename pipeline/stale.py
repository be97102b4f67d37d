"""Which stages are stale, and why: plain data without DVC, which one process can send to another."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipeline.graph import Node, reach, reverse

CHANGED = " -> "  # between the old value of a parameter and the new one, in a reason


@dataclass(frozen=True)
class Status:
    """The status of all stages, by name."""

    nodes: dict[str, Node]
    reasons: dict[str, list[str]]  # why a stage is stale; up-to-date stages are absent
    running: dict[str, int]  # stage -> pid of the process that writes its outputs
    unknown: set[str]  # stages whose inputs or outputs are in use, so that DVC cannot check them
    params: dict[str, list[str]]  # the keys of params that it reads, such as `codebook.kmeans`

    def frozen(self) -> set[str]:
        """The stages that never run, whatever changes."""
        return {name for name, node in self.nodes.items() if node.frozen}

    def affected(self) -> set[str]:
        """All stages that are stale or running, and everything downstream of them."""
        return reach({*self.reasons, *self.running} - self.frozen(), self.downstream())

    def downstream(self) -> dict[str, set[str]]:
        """The stages that wait for each stage; a frozen stage waits for none, nor any for a check of changed params."""
        checks = {name for name, node in self.nodes.items() if node.settings.checks_params}
        passed = {name for name in checks & {*self.reasons} if all(CHANGED in why for why in self.reasons[name])}
        return reverse({name: {*node.waits_for} - passed for name, node in self.nodes.items()})

    def readers(self, keys: Iterable[str]) -> set[str]:
        """The stages that read one of these keys of params, or a section around or below it."""
        return {name for name, read in self.params.items() if any(overlap(one, key) for one in read for key in keys)}


def overlap(one: str, other: str) -> bool:
    """Whether a dotted key is the other one, or one of them contains the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return found
