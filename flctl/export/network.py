"""A module's forward pass as Python source that needs torch alone, a line for each operation of its graph."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flctl.errors import FlctlError, IncompatibleError

__all__ = ["exported_program", "network_source", "quiet"]

HEAD = '''"""The network: torch operations on named weights, written by `flctl export`."""

import operator

import torch


def forward(w, {inputs}):
    """Outputs for a batch of inputs; `w` maps the names in model.safetensors to tensors."""
'''


def exported_program(module: Any, example: Any) -> Any:
    """The module's graph for batches of any size.

    Raises IncompatibleError for a module whose forward pass depends on the values of its inputs.
    """
    import torch

    sizes = {0: torch.export.Dim("batch")}
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(module.eval(), (example,), dynamic_shapes=(sizes,))
    except FlctlError:
        raise
    except Exception as error:  # a user's model may raise anything while it is traced
        reason = str(error).strip().partition("\n")[0][:200]
        raise IncompatibleError(
            f"the model cannot be written as a graph of operations: {type(error).__name__}: {reason}",
            hint="Export needs a forward pass without branches on values; `flctl predict` runs any model.",
        ) from error


def network_source(program: Any) -> str:
    """Python source of `forward(w, x)` for an exported program."""
    names = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs if spec.target is not None}
    inputs = program.graph_signature.user_inputs
    lines = [f'    {variable} = w["{target}"]' for variable, target in names.items()]
    for node in program.graph.nodes:
        if node.op == "call_function":
            lines.append(f"    {node.name} = {_called(node.target)}({_arguments(node)})")
        elif node.op == "output":
            lines.append(f"    return {_written(node.args[0][0])}")
        elif node.op != "placeholder":
            raise IncompatibleError(
                f"the model's graph has an operation of kind '{node.op}', which export does not support"
            )
    return HEAD.format(inputs=", ".join(inputs)) + "\n".join(lines) + "\n"


def _arguments(node: Any) -> str:
    named = [f"{name}={_written(value)}" for name, value in node.kwargs.items()]
    return ", ".join([*map(_written, node.args), *named])


def _called(target: Any) -> str:
    module = getattr(target, "__module__", "")
    if module in ("_operator", "operator"):
        return f"operator.{target.__name__}"
    name = str(target)
    if name.startswith("aten."):
        return f"torch.ops.{name}"
    raise IncompatibleError(
        f"the model uses the operation '{name[:100]}', which is not one of torch's own",
        hint="Export needs a model that consists of torch operations.",
    )


def _written(value: Any) -> str:
    """A graph's argument as source."""
    if isinstance(value, (list, tuple)):
        inner = ", ".join(map(_written, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    kind = type(value).__name__
    if kind == "Node":
        return str(value.name)
    if kind == "device":
        return f'torch.device("{value}")'
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    return str(value)  # dtypes, layouts and memory formats are written as torch names them


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps the notes of torch's exporters off the terminal; their errors are raised as before."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
