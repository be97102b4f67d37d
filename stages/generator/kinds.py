"""The generators by name. Each module has `loss`, `nats`, `sample` and its likelihood's BOUND."""

from types import ModuleType

from stages.generator import ar, masked

KINDS: dict[str, ModuleType] = {"ar": ar, "masked": masked}
