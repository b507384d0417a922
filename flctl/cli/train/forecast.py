"""Printed output of `flctl train --explain`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from flctl.cli import output
from flctl.engines.footprint import size_text
from flctl.errors import counted
from flctl.performance.duration import seconds_text

if TYPE_CHECKING:
    from rich.console import Console

    from flctl.performance.forecast import Forecast

__all__ = ["render"]


def render(console: Console, forecast: Forecast) -> None:
    """Prints which executor was chosen and why, and what a round and the run will take."""
    rows = [(forecast.executor, "chosen", forecast.why)]
    rows += [(name, "", reason) for name, reason in forecast.others.items()]
    output.table(console, ("executor", "", "why, or why not"), rows, left=3)
    output.table(console, ("what", "found"), _facts(forecast), left=2)


def _facts(forecast: Forecast) -> Iterator[tuple[str, str]]:
    yield "engine", _engine(forecast)
    yield "single updates", _readers(forecast)
    if forecast.attack:
        yield (
            "attack",
            "{name}: {malicious} of {clients} clients malicious, from round {since} on".format(**forecast.attack),
        )
    yield "best round", _selection(forecast)
    yield f"round {forecast.chunks.round}", _round(forecast)
    yield "a client's message", _traffic(forecast)
    yield "memory", _memory(forecast)
    yield "training, estimated", f"{seconds_text(forecast.duration.now)} a round; {forecast.duration.advice}"


def _engine(forecast: Forecast) -> str:
    workers = counted(forecast.workers, "worker")
    where = f"{forecast.engine}, {workers}" if forecast.memory.workers else forecast.engine
    return f"{where} (auto, as engine.workers is {forecast.workers})" if forecast.asked == "auto" else where


def _readers(forecast: Forecast) -> str:
    if not forecast.readers:
        return "no component needs individual updates, so each chunk sends only its sum"
    verb = "reads" if len(forecast.readers) == 1 else "read"
    kept = size_text(forecast.memory.updates)
    return f"{' and '.join(forecast.readers)} {verb} individual updates, so the server keeps all of a cohort, {kept}"


def _round(forecast: Forecast) -> str:
    found = forecast.chunks
    if not found.clients:
        return "no client is selected"
    each = f"{found.fewest}" if found.fewest == found.most else f"{found.fewest} to {found.most}"
    unit = "client" if each == "1" else "clients"
    chunks = f"{counted(found.chunks, 'chunk')} of {each} {unit}"
    why = "a retried chunk would repeat its steps" if forecast.by_rows else "engine.deadline is set"
    alone = f" ({why})" if forecast.alone else ""
    asks = f"{counted(found.clients, 'client')} with {counted(found.rows, 'row')}"
    once = f"{found.at_once:,} at once" if found.at_once > 1 else "one after the other"
    size = f"{size_text(found.largest_bytes)} where engine.memory is {size_text(forecast.budget)}"
    return f"{asks} in {chunks}{alone}, {once}, at most {size}"


def _selection(forecast: Forecast) -> str:
    found = forecast.selection
    if found.split is None:
        return "not picked: the partition has neither validation nor test rows"
    picked = f"{found.metric} on {counted(found.rows, f'{found.split} row')}"
    return f"{picked}; --validation-fraction keeps them for eval" if found.split == "test" else picked


def _traffic(forecast: Forecast) -> str:
    down, up, clients = forecast.traffic.down, forecast.traffic.up, forecast.chunks.clients
    if up is None:
        return f"{size_text(down)} down; the aggregator determines the upload"
    total = size_text((down + up) * clients)
    return f"{size_text(down)} down, {size_text(up)} up; {total} a round"


def _memory(forecast: Forecast) -> str:
    found = forecast.memory
    whole = f"the server {size_text(found.server)}"
    if found.workers:
        workers = f"{counted(found.workers, 'worker')}, {size_text(found.worker)} each"
        whole = f"{workers}, {whole}; {size_text(found.needed)} altogether"
    return f"{whole}; {size_text(found.free.bytes)} are {found.free.source}" if found.free else whole
