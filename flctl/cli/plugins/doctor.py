"""Checks of `flctl plugins doctor`: plugins load, their hooks return components, names are unique.

With `--check`, components also go through all conformance checks of `flctl.testing`, not only the quick ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flctl.cli import output
from flctl.errors import PluginError, counted, suggest
from flctl.kinds import KINDS
from flctl.plugins import hookspecs
from flctl.plugins.registry import Plugin, Registry

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["PluginCheck", "examine", "render"]

BUILTIN = "builtin"
ELSEWHERE = {"engine network": "its clients are at the sites of a federation; try flctl demo --network"}
"""Built-in components that no trial run on this machine can check, and the reason."""
QUICK = ("class", "name", "docstring", "strict")
"""The checks of `flctl.testing` that need no options and no time."""


@dataclass(frozen=True, slots=True)
class PluginCheck:
    """Result of one check: `fail` if a plugin or component is broken, `warn` if it could not be checked."""

    subject: str
    status: Literal["ok", "warn", "fail"]
    detail: str

    def data(self) -> dict[str, str]:
        """Returns the data of the JSON envelope."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Found:
    """A component class and where it was found."""

    kind: str
    plugin: Plugin
    component: Any

    @property
    def subject(self) -> str:
        """Kind and name of the component, as findings show them."""
        return f"{self.kind} {getattr(self.component, 'name', self.component)}"


def examine(registry: Registry, wanted: Sequence[str], *, check: bool) -> list[PluginCheck]:
    """Checks all plugins, or those in `wanted` (names, or `.py` files, which are loaded).

    Raises PluginError for a name that no plugin has.
    """
    findings = [finding for file in wanted if file.endswith(".py") for finding in _loaded(registry, Path(file))]
    names = [str(Path(name)) if name.endswith(".py") else name for name in wanted]
    _refuse_unknown(registry, [name for name in names if not name.endswith(".py")])
    findings += [
        PluginCheck(f"plugin {broken.name}", "fail", f"{broken.origin}: {broken.reason}")
        for broken in registry.broken
        if not names or broken.name in names
    ]
    plugins = [plugin for plugin in registry.plugins if not names or plugin.name in names]
    found: list[Found] = []
    for plugin in plugins:
        findings += _hooks(registry, plugin, found)
    findings += _clashes(registry, found)
    for one in found:
        findings += _quick(one)
        if check and (one.plugin.name != BUILTIN or BUILTIN in names):
            findings += _conformance(one)
    return findings


def render(console: Console, findings: Sequence[PluginCheck]) -> None:
    """Prints a table, and below it findings that take more than a line."""
    signs = {"ok": "ok", "warn": "!", "fail": "X"}
    rows = ((one.subject, signs[one.status], one.detail.partition("\n")[0]) for one in findings)
    output.table(console, ("what", "", "found"), rows, left=3)
    for one in findings:
        if "\n" in one.detail:
            console.print(output.plain(one.detail), markup=False, soft_wrap=True)
            console.print()
    failed = sum(one.status == "fail" for one in findings)
    console.print(
        f"{failed} of {counted(len(findings), 'check')} failed" if failed else "all plugins work", markup=False
    )


def _loaded(registry: Registry, file: Path) -> Iterator[PluginCheck]:
    try:
        registry.add_file(file)
    except PluginError as error:
        yield PluginCheck(f"file {file}", "fail", f"{error.message}. {error.hint}" if error.hint else error.message)


def _refuse_unknown(registry: Registry, names: Sequence[str]) -> None:
    known = {plugin.name for plugin in registry.plugins} | {broken.name for broken in registry.broken}
    for name in names:
        if name not in known:
            hint = suggest(name, known) or f"Installed: {', '.join(sorted(known))}."
            raise PluginError(f"there is no plugin '{name}'", hint=hint)


def _hooks(registry: Registry, plugin: Plugin, found: list[Found]) -> Iterator[PluginCheck]:
    """Checks that a plugin names the API it needs and that its hooks return components; fills `found`."""
    module = registry.plugin(plugin.name)
    hooks = [name for name in vars(hookspecs) if name.startswith("flctl_") and hasattr(module, name)]
    yield _plugin(plugin, hooks)
    for kind, hook in ((name, kind.hook) for name, kind in KINDS.items()):
        if hook not in hooks:
            continue
        try:
            found += [Found(kind, plugin, component) for component in getattr(module, hook)()]
        except (Exception, SystemExit) as error:
            yield PluginCheck(f"plugin {plugin.name}", "fail", f"{hook}() raised {type(error).__name__}: {error}")


def _plugin(plugin: Plugin, hooks: Sequence[str]) -> PluginCheck:
    subject = f"plugin {plugin.name}"
    if not hooks:
        return PluginCheck(subject, "warn", f"{plugin.origin}: implements no hook, so it has no effect")
    if plugin.api is None and plugin.name != BUILTIN:
        missing = "states no FLCTL_API, so a later flctl cannot check compatibility"
        return PluginCheck(subject, "warn", f"{plugin.origin}: {', '.join(hooks)}; {missing}")
    stated = f", API {plugin.api}" if plugin.api else ""
    return PluginCheck(subject, "ok", f"{plugin.origin}{stated}: {', '.join(hooks)}")


def _clashes(registry: Registry, found: Sequence[Found]) -> Iterator[PluginCheck]:
    homes: dict[tuple[str, str], list[Plugin]] = {}
    for one in found:
        homes.setdefault((one.kind, getattr(one.component, "name", "")), []).append(one.plugin)
    for (kind, name), plugins in homes.items():
        if len(plugins) > 1 and name:
            origins = " and ".join(plugin.origin for plugin in plugins)
            leave = f"leave one out with --disable-plugin {plugins[-1].name}"
            yield PluginCheck(f"{kind} {name}", "fail", f"two plugins offer it, {origins}: {leave}")


def _quick(one: Found) -> Iterator[PluginCheck]:
    from flctl.testing.component import component_checks
    from flctl.testing.conformance import Checks

    checks = Checks([check for check in component_checks(one.kind).checks if check.id in QUICK])
    wrong = _failures(one, checks)
    if wrong:
        yield PluginCheck(one.subject, "fail", wrong)
    elif one.plugin.name != BUILTIN:
        yield PluginCheck(one.subject, "ok", f"of {one.plugin.origin}: {one.component.__doc__.strip().splitlines()[0]}")


def _failures(one: Found, checks: Any) -> str | None:
    from flctl.testing.component import Plain, title_of
    from flctl.testing.conformance import ConformanceError, conform

    try:
        conform(checks, Plain(one.component, {}), title_of(one.component, one.kind))
    except ConformanceError as error:
        return str(error)
    return None


def _conformance(one: Found) -> Iterator[PluginCheck]:
    from flctl import testing
    from flctl.testing.examples import unexplained_options

    elsewhere = ELSEWHERE.get(one.subject) if one.plugin.name == BUILTIN else None
    if elsewhere:
        yield PluginCheck(one.subject, "warn", f"not checked: {elsewhere}")
        return
    missing = unexplained_options(one.component)
    if missing:
        yield PluginCheck(
            one.subject, "warn", f"not checked: {', '.join(missing)} has no default, and no Field(examples=)"
        )
        return
    arguments = [one.component]
    if one.kind == "dataset":
        if not one.component.reads(one.component.name):
            yield PluginCheck(
                one.subject, "warn", "not checked: check_dataset needs a sample file; the plugin's tests have one"
            )
            return
        arguments.append(one.component.name)
    output.note(f"checking {one.subject} ...")
    try:
        passed = getattr(testing, f"check_{one.kind}")(*arguments)
    except testing.ConformanceError as error:
        yield PluginCheck(one.subject, "fail", str(error))
        return
    notes = "".join(f"; {note}" for note in passed.notes)
    yield PluginCheck(one.subject, "ok", f"passes {counted(len(passed.checks), 'check')} of its contract{notes}")
