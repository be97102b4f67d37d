"""params.yaml, and studies/params.yaml beside it -> one frozen, strictly checked object per section.

A stage declares its section beside the code that reads it:

    class Params(Section):
        shard_images: int = Field(gt=0)

    params = load("features", Params, path)

A section stands in one of the two files; `path` is always the first. No defaults in code: the files are complete. An
unknown, missing or impossible value is a `UserError` that names the key, the value and what is allowed. A name that
users give becomes a part of paths, of DVC's stages and of shell commands, so names are restricted to NAME.
"""

import re
from collections.abc import Collection, Iterator
from functools import lru_cache, partial, reduce
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.core import UserError
from stages.core.code import track

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
WEIGHTS = "weights"  # the section {name: file} from which others take files of weights
NAME_RULE = "expected a name of 1 to 64 letters (a to z), digits, - and _, beginning with a letter or digit"
TOO_LARGE, LONGEST = 2**63, 100  # of a number; of a value in a message, characters


class Section(BaseModel):
    """A part of params.yaml: frozen, no unknown keys, no silent conversion, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Machine(Section):
    """Settings of speed and memory. No stage lists them under `params:`, so a change reruns nothing.

    Results change by rounding alone; with dropout, each micro-batch drops activations of its own.
    """

    device: str = Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    num_workers: int = Field(ge=0, le=256)
    infer_batch_size: int = Field(gt=0)  # images at once where nothing is trained
    micro_batch_size: int = Field(ge=0)  # images per process at once in a training; 0: its whole share of the batch
    shard_above: float = Field(ge=0)  # parameters; with several processes a larger network is sharded (FSDP2)
    recompute_activations: bool
    compile: Literal["auto", "on", "off"]
    checkpoint_share: float = Field(gt=0, le=1)  # of the time of a training
    tracker: Literal["none", "tensorboard", "wandb", "mlflow"]  # to which trainings send their curves as they go

    @field_validator("tracker")
    @classmethod
    def is_installed(cls, tracker: str) -> str:
        if tracker != "none" and find_spec(tracker) is None:
            raise ValueError(f"{tracker!r}: its package is not installed: uv sync --group {tracker}")
        return tracker

    def whole_batches(self) -> Self:
        """The same without micro-batches and sharding: for losses between images, and codes that a batch revives."""
        return self.model_copy(update={"micro_batch_size": 0, "shard_above": float("inf")})


def _all_different(values: list[Any]) -> list[Any]:
    names = {f"{value:g}" if isinstance(value, float) else value for value in values}
    if len(names) < len(values):
        raise ValueError(f"{values}: expected different numbers")
    return values


# For Annotated[list[...], DIFFERENT]. Floats must differ in six significant digits, because names of metrics hold them.
DIFFERENT = AfterValidator(_all_different)
AnySection = TypeVar("AnySection", bound=Section)


def file_named(name: str, info: ValidationInfo) -> str:
    """The file under a name of the section `weights`; values that come from no params file are files themselves."""
    if not name or info.context is None or name in info.context:
        return (info.context or {}).get(name, name)
    listed = ", ".join(map(str, info.context)) or "none yet; add one there, such as weights.NAME=FILE.safetensors"
    raise ValueError(f"{info.field_name} = {shown(name)}: expected a name of the section weights ({listed})")


WeightsFile = Annotated[str, AfterValidator(file_named)]


def load(section: str, cls: type[AnySection], path: Path = Path("params.yaml")) -> AnySection:
    """The section `a` or `a.b` of the params at `path`, checked against `cls`; `UserError` names every bad key."""
    read, file, files = partial(_section, section, path), file_of(section, path), load_sections(path).get(WEIGHTS)
    try:
        values = read() if cls is Machine else track(f"{file}: {section}", read)
        return cls.model_validate(values, context=files if isinstance(files, dict) else {})
    except ValidationError as error:
        lines = [_explain(section, cls, item) for item in error.errors()]
        raise UserError(f"{file}: " + f"\n{file}: ".join(lines)) from None
    except OSError as error:  # a schema asks for a file by a name that cannot be one
        raise UserError(f"{file}: {section}: {_cut(str(error))}") from None


def load_list(key: str, path: Path = Path("params.yaml"), empty: bool = False) -> list[str]:
    """A top-level list of names, such as `generators`; `empty`: it may be."""
    names, file = load_value(key, path), file_of(key, path)
    if not isinstance(names, list) or not (names or empty) or not all(isinstance(name, str) for name in names):
        wanted = "a list of names" if empty else "a list of at least one name"
        raise UserError(f"{file}: {key} = {shown(names)}: expected {wanted}")
    if bad := [shown(name) for name in names if not NAME.fullmatch(name)]:
        raise UserError(f"{file}: {key}: {', '.join(bad)}: {NAME_RULE}")
    if len({name.casefold() for name in names}) < len(names):
        raise UserError(f"{file}: {key} = {shown(names)}: expected different names, not only in upper and lower case")
    return names


def load_value(key: str, path: Path = Path("params.yaml")) -> Any:
    """One value, such as `codebook.kmeans.kind`, unchecked."""
    return track(f"{file_of(key, path)}: {key}", partial(_section, key, path))


def kind_of(section: str, kinds: Collection[str], path: Path = Path("params.yaml")) -> str:
    """The key `kind` of a section; `UserError` if it is none of `kinds`."""
    kind = load_value(f"{section}.kind", path)
    if not isinstance(kind, str) or kind not in kinds:
        raise impossible(f"{section}.kind", kind, f"expected one of {', '.join(kinds)}")
    return kind


def parts_of(path: Path) -> list[Path]:
    """A dvc.yaml, params.yaml or dvc.lock, and the one of the studies beside it, if there is one."""
    return [path, *filter(Path.is_file, [path.parent / "studies" / path.name])]


def file_of(key: str, path: Path) -> Path:
    """Which file of the params at `path` has the section of a dotted key; the first one if none has."""
    return next((one for one in parts_of(path)[1:] if key.partition(".")[0] in load_file(one)), path)


def load_sections(path: Path) -> dict[Any, Any]:
    """All sections of the params at `path`; `UserError` for one that stands in both files."""
    found: dict[Any, Any] = {}
    for file in parts_of(path):
        if doubled := found.keys() & load_file(file).keys():
            raise UserError(f"{file}: {', '.join(sorted(map(str, doubled)))}: also in {path}; remove one of the two")
        found |= load_file(file)
    return found


def load_file(path: Path) -> dict[Any, Any]:
    """All sections of a YAML file. It is parsed once, until it changes."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; stages run from the repository's root")
    return _parsed(path, (facts := path.stat()).st_mtime_ns, facts.st_size)


def shown(value: Any) -> str:
    """A value in one line of a message, cut off after LONGEST characters."""
    return _cut(repr(value), LONGEST)


def impossible(key: str, value: Any, allowed: str) -> UserError:
    """The error for a value that only other facts (an artifact, another key) show to be impossible."""
    return UserError(f"{file_of(key, Path('params.yaml'))}: {key} = {shown(value)}: {allowed}")


def _cut(text: str, longest: int = 4 * LONGEST) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _section(dotted: str, path: Path) -> Any:
    node: Any = load_sections(path)
    for key in dotted.split("."):
        if not isinstance(node, dict) or key not in node:
            raise UserError(f"{path}: {dotted}: this section is missing")
        node = node[key]
    return node


@lru_cache(maxsize=8)
def _parsed(path: Path, mtime_ns: int, size: int) -> dict[Any, Any]:  # a changed file is another entry
    try:
        content = YAML(typ="safe").load(path)
    except (OSError, ValueError, RecursionError, YAMLError) as error:
        why = " ".join(str(error).partition("To suppress this check")[0].split())
        raise UserError(f"{path}: not valid YAML: {why}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected sections with values, found {shown(content)}")
    _refuse_too_large(path, content)
    return content


def _refuse_too_large(path: Path, content: dict[Any, Any]) -> None:
    """Numbers that neither DVC nor NumPy can hold; Python does not even print those of more than 4,300 digits."""
    seen, todo = set[int](), [("", content)]
    while todo:
        key, node = todo.pop()
        if isinstance(node, int) and abs(node) >= TOO_LARGE:
            raise UserError(f"{path}: {key}: the number is too large; expected less than 2^63")
        if isinstance(node, dict | list) and id(node) not in seen:  # an alias may lead back to an anchor around it
            seen.add(id(node))
            parts = node.items() if isinstance(node, dict) else enumerate(node)
            todo += [(f"{key}.{name}" if key else str(name), part) for name, part in parts]


def _explain(section: str, cls: type[Section], item: Any) -> str:
    key = ".".join([section, *_names(cls, item["loc"])])
    match item["type"]:
        case "missing":
            return f"{key}: missing; it has no default"
        case "extra_forbidden":
            known = ", ".join(reduce(_step, item["loc"][:-1], cls).model_fields)
            return f"{key} = {shown(item['input'])}: unknown key; {key.rpartition('.')[0]} has {known}"
        case "value_error":
            return f"{key}: {_cut(str(item['ctx']['error']))}"
        case _:
            return f"{key} = {shown(item['input'])}: {item['msg'][0].lower()}{item['msg'][1:]}"


def _names(cls: Any, path: Any) -> Iterator[str]:
    """The keys on a path of pydantic's, which also names the chosen members of unions."""
    for key in path:
        if not _members(cls):
            yield str(key)
        cls = _step(cls, key)


def _step(cls: Any, key: Any) -> Any:
    fields = getattr(cls, "model_fields", {})
    return fields[key].annotation if key in fields else _members(cls).get(key)


def _members(cls: Any) -> dict[str, Any]:
    """{tag: type} of a union whose members have tags."""
    tagged = [(get_args(one)[0], mark.tag) for one in get_args(cls) for mark in getattr(one, "__metadata__", ())
              if isinstance(mark, Tag)]  # fmt: skip
    return {tag: one for one, tag in tagged}


Precision = Literal["fp32", "bf16", "fp16"]
