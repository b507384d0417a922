"""Flower's client: imported by each of Ray's actors, so that an actor reads the rows once."""

from __future__ import annotations

from functools import lru_cache

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from peer import Spec

__all__ = ["train_with"]


@lru_cache(maxsize=1)
def _prepared(spec_text: str) -> tuple[Spec, torch.nn.Module, torch.Tensor, torch.Tensor, list[int]]:
    import json

    torch.set_num_threads(1)
    spec = Spec(**json.loads(spec_text))
    return spec, spec.module(), *spec.rows()


def train_with(spec_text: str, message: Message, context: Context) -> Message:
    """One client's epoch from the arrays in the message."""
    spec, module, x, y, bounds = _prepared(spec_text)
    module.load_state_dict(message.content["arrays"].to_torch_state_dict())
    start, end = (bounds[int(context.node_config["partition-id"]) + step] for step in (0, 1))
    order = start + torch.randperm(end - start)
    optimizer = torch.optim.SGD(module.parameters(), lr=spec.lr)
    for rows in order.split(spec.batch_size):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
        optimizer.step()
    content = RecordDict(
        {"arrays": ArrayRecord(module.state_dict()), "metrics": MetricRecord({"num-examples": end - start})}
    )
    return Message(content=content, reply_to=message)
