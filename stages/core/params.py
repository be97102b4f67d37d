"""params.yaml -> one frozen, strictly checked object per section.

A stage declares its section beside the code that reads it:

    class Params(Section):
        shard_images: int = Field(gt=0)

    params = load("features", Params, path)

No defaults in code: params.yaml is complete. An unknown, missing or impossible value is a `UserError` that names
the key, the value and what is allowed.
"""

from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.core.code import track
from stages.core.errors import UserError


class Section(BaseModel):
    """A part of params.yaml: frozen, no unknown keys, no silent conversion, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Machine(Section):
    """Settings that change speed but no results. No stage lists them under `params:`, so a change reruns nothing."""

    device: str = Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    num_workers: int = Field(ge=0, le=256)
    infer_batch_size: int = Field(gt=0)  # images at once where nothing is trained
    checkpoint_secs: float = Field(ge=0)


def _all_different(values: list[Any]) -> list[Any]:
    names = {f"{value:g}" if isinstance(value, float) else value for value in values}
    if len(names) < len(values):
        raise ValueError(f"{values}: expected different numbers")
    return values


# For Annotated[list[...], DIFFERENT]. Floats must differ in six significant digits, because names of metrics hold them.
DIFFERENT = AfterValidator(_all_different)
AnySection = TypeVar("AnySection", bound=Section)


def load(section: str, cls: type[AnySection], path: Path = Path("params.yaml")) -> AnySection:
    """The section `a` or `a.b` of the YAML file at `path`, checked against `cls`; `UserError` names every bad key."""
    read = partial(_section, section, path)
    try:
        return cls.model_validate(read() if cls is Machine else track(f"{path}: {section}", read))
    except ValidationError as error:
        lines = [_explain(section, cls, item) for item in error.errors()]
        raise UserError(f"{path}: " + f"\n{path}: ".join(lines)) from None


def load_list(key: str, path: Path = Path("params.yaml")) -> list[str]:
    """A top-level list of names, such as `generators`."""
    names = track(f"{path}: {key}", partial(_section, key, path))
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: {key} = {names!r}: expected a list of at least one name")
    return names


def load_value(key: str, path: Path = Path("params.yaml")) -> Any:
    """One value, such as `codebook.kmeans.kind`, unchecked."""
    return track(f"{path}: {key}", partial(_section, key, path))


def impossible(key: str, value: Any, allowed: str) -> UserError:
    """The error for a value that only other facts (an artifact, another key) show to be impossible."""
    return UserError(f"params.yaml: {key} = {value!r}: {allowed}")


def _section(dotted: str, path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: no such file; stages run from the repository's root")
    node = _parsed(path, (facts := path.stat()).st_mtime_ns, facts.st_size)
    for key in dotted.split("."):
        if not isinstance(node, dict) or key not in node:
            raise UserError(f"{path}: {dotted}: this section is missing")
        node = node[key]
    return node


@lru_cache(maxsize=4)
def _parsed(path: Path, mtime_ns: int, size: int) -> Any:  # a changed file is another entry

    try:
        return YAML(typ="safe").load(path)
    except YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


def _explain(section: str, cls: type[Section], item: Any) -> str:
    key = ".".join([section, *map(str, item["loc"])])
    match item["type"]:
        case "missing":
            return f"{key}: missing; it has no default"
        case "extra_forbidden":
            known = ", ".join(_section_at(cls, item["loc"][:-1]).model_fields)
            return f"{key} = {item['input']!r}: unknown key; {key.rpartition('.')[0]} has {known}"
        case "value_error":
            return f"{key}: {item['ctx']['error']}"
        case _:
            return f"{key} = {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}"


def _section_at(cls: Any, path: Any) -> Any:
    for key in path:
        cls = cls.model_fields[key].annotation
    return cls


Precision = Literal["fp32", "bf16", "fp16"]
