"""Sampling settings as callers give them: checked, and listed by `help(generator.sample)`."""

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from typing import Any

from pydantic import ValidationError

from stages.core import UserError
from stages.data.given import one_line, unknown
from stages.generator.params import Sampling


def changed(sampling: Sampling, changes: dict[str, Any]) -> Sampling:
    """The settings with some values replaced; `UserError` for an unknown or impossible one."""
    try:
        return type(sampling)(**{**sampling.model_dump(), **changes})
    except ValidationError as error:
        known = [*type(sampling).model_fields]
        lines = []
        for item in error.errors():
            name = ".".join(map(str, item["loc"]))
            why = unknown(name, known) if item["type"] == "extra_forbidden" else f"{item['msg']}."
            lines.append(f"{name} = {one_line(item['input'])}: {why}")
        raise UserError(f"sampling: {'; '.join(lines)} The settings are {', '.join(known)}") from None


def documented(method: Callable[..., Any], sampling: Sampling) -> Callable[..., Any]:
    """The method of a generator, with its sampling settings and their values in signature and docstring."""
    plain = signature(method)
    named = [one for one in plain.parameters.values() if one.kind is not Parameter.VAR_KEYWORD]
    settings = [Parameter(name, Parameter.KEYWORD_ONLY, default=value) for name, value in sampling]
    fields = type(sampling).model_fields.items()
    lines = [f"    {name} = {getattr(sampling, name)!r}: {field.description}" for name, field in fields]

    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    vars(call)["__signature__"] = plain.replace(parameters=[*named, *settings])
    call.__doc__ = "\n".join([str(method.__doc__).rstrip(), "", "Sampling settings of this generator:", *lines])
    return call
