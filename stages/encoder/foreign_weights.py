"""Tensors of weights files that others wrote, in the file's order, and their fit to a network of timm."""

from collections import defaultdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stages.core import UserError

PICKLES = (".pth", ".pt", ".bin")
HUGGING_FACE = ("query", "key", "value")  # their separate linear maps are one, qkv, in timm


def read(path: Path, part: str) -> dict[str, Tensor]:
    """The tensors of a file whose names begin with `part`; a pickle is read with weights_only=True alone."""
    if path.suffix not in (*PICKLES, ".onnx", ".safetensors"):
        raise UserError(f"{path}: expected a file that ends in {', '.join(PICKLES)}, .onnx or .safetensors")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        found = read_onnx(path) if path.suffix == ".onnx" else read_tensors(path)
    except (OSError, ValueError, RuntimeError, KeyError, EOFError, UnpicklingError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from None
    kept = {name: tensor for name, tensor in found.items() if name.startswith(part) or "::" in name}
    if not kept:
        raise UserError(f"{path}: no tensor's name begins with {part!r}; there are {', '.join([*found][:3])} …")
    return kept


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Of a safetensors file, or of what torch.save wrote: a dictionary of tensors, or one that holds such a one."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    saved = torch.load(path, map_location="cpu", weights_only=True)
    inner = [one for one in saved.values() if is_state(one)] if isinstance(saved, dict) else []
    if not is_state(saved) and len(inner) != 1:
        raise ValueError("it holds no dictionary of tensors, or several")
    return saved if is_state(saved) else inner[0]


def is_state(saved: Any) -> bool:
    """Whether this is a dictionary of tensors."""
    return isinstance(saved, dict) and bool(saved) and all(isinstance(one, Tensor) for one in saved.values())


def read_onnx(path: Path) -> dict[str, Tensor]:
    """The constants of a graph in the order of their use, under the names that the exporter has left or dropped.

    A linear map is exported as a product with a nameless constant, and a sum with its bias, which has a name: the
    constant, transposed, is the weight beside that bias. Other nameless constants [1, n, D] are the rows of one table
    of positions, which the exporter has cut: the class token's comes before those of the patches.
    """
    import onnx  # here, since it is installed for imports alone

    graph = onnx.load(path).graph
    constants = {one.name: torch.from_numpy(onnx.numpy_helper.to_array(one).copy()) for one in graph.initializer}
    biases = {given: one for node in graph.node if node.op_type == "Add" for one, given in both_ways(node.input)}
    found, rows = dict[str, Tensor](), list[Tensor]()
    for node in graph.node:
        for name in [name for name in node.input if name in constants]:
            tensor, bias = constants[name], biases.get(node.output[0], "")
            if "::" not in name:
                found.setdefault(name, tensor)
            elif node.op_type == "MatMul" and bias.endswith(".bias"):
                found[bias.removesuffix("bias") + "weight"] = tensor.T.contiguous()
            elif tensor.ndim == 3:
                rows.append(tensor)
            else:
                raise ValueError(f"{name} {list(tensor.shape)} of {node.op_type} cannot be named")
    table = {"::positions": torch.cat(sorted(rows, key=lambda part: part.shape[1]), 1)} if rows else {}
    return {**table, **found}


def both_ways(pair: Any) -> list[tuple[str, str]]:
    """(first, second), (second, first)."""
    return [(pair[0], pair[1]), (pair[1], pair[0])]


def fit(found: dict[str, Tensor], wanted: dict[str, Tensor], ordered: bool) -> dict[str, Tensor]:
    """The tensors of a file under the names of a network's own.

    Equal names fit by name. Others fit by shape, and among those of one shape by their order, if the file is `ordered`.
    `ValueError` if a tensor is missing, left over or of another shape.
    """
    if {*found} != {*wanted} and ordered:
        found = renamed(joined(found), wanted)
    if odd := sorted({*found} ^ {*wanted}):
        what = "is missing" if odd[0] in wanted else "is left over"
        raise ValueError(f"{odd[0]} {what}, and {len(odd) - 1} more do not fit")
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape:
            raise ValueError(f"{name} has the shape {list(found[name].shape)}, not {list(tensor.shape)}")
    return {name: found[name].to(tensor.dtype).contiguous() for name, tensor in wanted.items()}


def joined(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with the maps to queries, keys and values as one, in this order."""
    result = dict[str, Tensor]()
    for name, tensor in found.items():
        parts = [name.replace(".query.", f".{part}.") for part in HUGGING_FACE]
        if ".query." in name and all(part in found for part in parts):
            result[name.replace(".query.", ".qkv.")] = torch.cat([found[part] for part in parts])
        elif not any(f".{part}." in name for part in HUGGING_FACE[1:]):
            result[name] = tensor
    return result


def renamed(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of each shape under the names of the wanted ones of this shape, in their order."""
    names = defaultdict(list)
    for name, tensor in wanted.items():
        names[tensor.shape].append(name)
    left = {shape: iter(of_shape) for shape, of_shape in names.items()}
    return {next(left.get(tensor.shape, iter(())), name): tensor for name, tensor in found.items()}
