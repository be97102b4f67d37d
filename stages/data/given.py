"""Arguments of the Python API, checked at the door: a wrong one is a `UserError` that names value and expectation.

@checked
def decode(self, codes: Any, batch_size: Count = 256) -> np.ndarray: ...     # decode: batch_size = 0: …

Codes and images have checks of their own: stages/core/metrics.py and stages/data/squares.py.
"""

from collections.abc import Callable
from difflib import get_close_matches
from functools import wraps
from inspect import signature
from numbers import Integral, Real
from typing import Annotated, Any, ParamSpec, TypeVar, get_type_hints

import torch
from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError, validate_call

from stages.core import UserError
from stages.core.params import shown

P = ParamSpec("P")
R = TypeVar("R")


def plain_integer(value: Any) -> Any:
    """An integer of NumPy's types as Python's, anything else as it is."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


def usable_device(device: Any) -> torch.device:
    """The device of a name, if torch can compute there; `ValueError` for others."""
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError, ValueError):
        raise ValueError("expected cpu, or a GPU such as cuda or cuda:1") from None
    if found.type == "cuda" and (found.index or 0) >= (gpus := torch.cuda.device_count()):
        raise ValueError(f"this machine has {gpus} usable GPUs: expected cpu" + (" or a lower number" if gpus else ""))
    if found.type not in ("cpu", "cuda", "meta") and found.type != str(torch.accelerator.current_accelerator()):
        raise ValueError("this machine has no such device: expected cpu")
    return found


def number_pair(given: Any) -> tuple[float, float]:
    """(low, high) as floats; `ValueError` unless low < high."""
    pair = [float(one) for one in given if isinstance(one, Real)] if isinstance(given, list | tuple) else []
    if len(pair) != 2 or len(given) != 2 or not -torch.inf < pair[0] < pair[1] < torch.inf:
        raise ValueError("expected (low, high), the values of black and white, such as (0, 1)")
    return pair[0], pair[1]


Count = Annotated[int, BeforeValidator(plain_integer), Field(gt=0)]
Pixels = Annotated[int, BeforeValidator(plain_integer), Field(ge=0)]
Seed = Annotated[int, BeforeValidator(plain_integer), Field(ge=0, le=2**63 - 1)]
Device = Annotated[torch.device | str, PlainValidator(usable_device)]
Range = Annotated[tuple[float, float], PlainValidator(number_pair)]


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """The function, whose arguments must be as annotated; its signature in `help` shows their plain types."""
    strict = validate_call(config=ConfigDict(strict=True, arbitrary_types_allowed=True))(function)
    plain, hints, name = signature(function), get_type_hints(function), getattr(function, "__name__", "")
    names = [one for one in plain.parameters if one != "changes"]  # with self, which counts as a place

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return strict(*args, **kwargs)
        except ValidationError as error:
            raise UserError(f"{name}: {complaint(error, names)}") from None

    shapes = [one.replace(annotation=hints.get(one.name, one.annotation)) for one in plain.parameters.values()]
    vars(call)["__signature__"] = plain.replace(parameters=shapes)
    return call


def complaint(error: ValidationError, names: list[str]) -> str:
    """The first wrong argument, its value and what was expected, in one line."""
    items, place = error.errors(), error.errors()[0]["loc"][0]  # a number where it was given without its name
    name = names[place] if isinstance(place, int) and place < len(names) else str(place)
    value = one_line(items[0]["input"])
    match items[0]["type"]:
        case "missing_argument":
            return f"{name} is missing; the arguments are {', '.join(names)}"
        case "unexpected_keyword_argument":
            return f"{name} = {value}: {unknown(name, names)} The arguments are {', '.join(names)}"
        case "unexpected_positional_argument":
            return f"{value} is one argument too many; the arguments are {', '.join(names)}"
        case "value_error":
            return f"{name} = {value}: {items[0]['ctx']['error']}"
    wanted = [item["msg"].removeprefix("Input should be ") for item in items if item["loc"][0] == place]
    return f"{name} = {value}: expected {' or '.join(wanted)}"


def one_line(value: Any) -> str:
    """A value for a message; arrays print in several lines."""
    return " ".join(shown(value).split())


def unknown(name: str, names: list[str]) -> str:
    """That a name does not exist, and the closest one that does."""
    close = get_close_matches(name, names, 1)
    return f"unknown, did you mean {close[0]}?" if close else "unknown."
