"""Models from the user's own code: `module:function` or `file.py:function`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from flctl.component import Options
from flctl.errors import ConfigError, FlctlError, PluginError, suggest
from flctl.kinds import APPROVED
from flctl.models.model import DataSpec, Model
from flctl.plugins.approved_code import approved_module
from flctl.plugins.files import load_file

if TYPE_CHECKING:
    import torch

__all__ = ["CustomModel"]


class CustomModel(Model):
    """The user's own network: `function(data: DataSpec, **options) -> torch.nn.Module`.

    `function` is `module:name`, imported with the current directory as the last place to look, or
    `path/to/file.py:name`. The module must map a batch as `DataSpec` says; it is tried on two examples of zeros.
    """

    name = "custom"

    class Config(Options):
        function: str
        options: dict[str, Any] = Field(default_factory=dict)

    def build(self, data: DataSpec) -> torch.nn.Module:
        """The function's module. Raises PluginError when it cannot be found or fails, ConfigError when what it
        returns is not a module or does not fit the data."""
        from torch import nn

        target = self.config.function
        function = _find(target)
        try:
            module = function(data, **self.config.options)
        except FlctlError:
            raise
        except Exception as error:
            raise PluginError(f"model '{target}' failed: {_reason(error)}") from error
        if not isinstance(module, nn.Module):
            raise ConfigError(
                f"model '{target}' returned {type(module).__name__}, expected a torch.nn.Module",
                hint="The function takes (data, **options) and returns the network.",
            )
        _try(module, data, target)
        return module


def _find(target: str) -> Callable[..., Any]:
    module, _, name = target.rpartition(":")
    if not module or not name:
        raise ConfigError(f"model '{target}' is not module:function or file.py:function")
    home = _home(target, module)
    function = getattr(home, name, None)
    if not callable(function):
        offered = [key for key, value in vars(home).items() if callable(value) and not key.startswith("_")]
        hint = suggest(name, offered) or f"Its functions: {', '.join(sorted(offered)) or 'no functions'}."
        raise PluginError(f"{module} has no function '{name}'", hint=hint)
    return function  # type: ignore[no-any-return]


def _home(target: str, module: str) -> Any:
    approved = APPROVED.fullmatch(target)
    if approved:
        return approved_module(approved[1])
    return load_file(Path(module)) if module.endswith(".py") else _import(module)


def _import(module: str) -> Any:
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(module)
    except Exception as error:
        hint = "Use a module that Python can import from this folder, or a path that ends in .py."
        raise PluginError(f"module '{module}' does not import: {_reason(error)}", hint=hint) from error


def _try(module: torch.nn.Module, data: DataSpec, target: str) -> None:
    import torch

    codes = data.task == "next-character"
    batch = torch.zeros((2, *data.shape), dtype=torch.int64 if codes else torch.float32)
    expected = (*batch.shape[: 2 if codes else 1], data.outputs)
    training = module.training
    try:
        with torch.no_grad():
            outputs = module.eval()(batch)
    except Exception as error:
        message = f"model '{target}' cannot process a batch of shape {list(batch.shape)}: {_reason(error)}"
        raise ConfigError(message, hint="data.shape is the shape of one example, without the batch.") from error
    finally:
        module.train(training)
    found = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
    if found != expected:
        raise ConfigError(
            f"model '{target}' returned {found} for a batch of shape {tuple(batch.shape)}, expected {expected}",
            hint="Use a last layer of data.outputs units without activation (logits).",
        )


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
