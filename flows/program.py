"""How the command line reads options and ends: global options anywhere on the line, one line for a user's mistake.

Exit codes: 0 done, 1 the work failed, 2 wrong input, 3 a gate is red, 4 a gate is broken, 130 interrupted.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from infra.settings import AppContext, find_root

_WITH_VALUE = {"--root", "--params", "--set"}
_FLAGS = {"--print-config", "--json"}


class Program(TyperGroup):
    """The top command: takes global options wherever they stand and turns exceptions into exit codes."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        remaining: list[str] = super().parse_args(ctx, hoist(args, self._own_options(args)))
        return remaining

    def invoke(self, ctx: Any) -> Any:
        from infra.stage import classify

        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, EOFError):
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from None
        except Exception as error:
            if _is_typers(error):
                raise
            outcome = classify(error)
            if outcome.kind == "failed" and not isinstance(error, (OSError, RuntimeError)):
                traceback.print_exception(error, file=sys.stderr)
            typer.echo(outcome.reason, err=True)
            raise typer.Exit(outcome.exit_code) from None

    def _own_options(self, args: Sequence[str]) -> set[str]:
        """The options that the command named on the line declares itself: those are left where they stand."""
        node: Any = self
        for word in args:
            node = getattr(node, "commands", {}).get(word, node)
        return set() if node is self else {name for parameter in node.params for name in parameter.opts}


def hoist(args: Sequence[str], own: set[str]) -> list[str]:
    """`args` with the global options that the command itself lacks moved to the front; nothing after `--` moves."""
    front: list[str] = []
    rest: list[str] = []
    words = list(args)
    while words:
        word = words.pop(0)
        name = word.partition("=")[0]
        if word == "--":
            rest += [word, *words]
            break
        if name in own or name not in _WITH_VALUE | _FLAGS:
            rest.append(word)
        else:
            front.append(word)
            if word in _WITH_VALUE and words:
                front.append(words.pop(0))
    return [*front, *rest]


def context_of(root: Path | None, params: Path | None, overrides: Sequence[str], as_json: bool) -> AppContext:
    """The project a command works in: the one named, or the nearest above the current folder, or the folder itself."""
    if root is not None and not root.is_dir():
        raise ValueError(f"--root {root}: no such folder")
    place = root.resolve() if root is not None else _nearest(Path.cwd())
    return AppContext(place, params.resolve() if params else place / "params.yaml", list(overrides), as_json)


def show(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """A table for people, or JSON for programs, on stdout."""
    if as_json:
        typer.echo(json.dumps(list(rows), indent=1, ensure_ascii=False))
        return
    if not rows:
        typer.echo("nothing there yet")
        return
    columns = list(rows[0])
    widths = {c: max(len(c), *(len(_cell(row[c])) for row in rows)) for c in columns}
    for line in ({c: c for c in columns}, *rows):
        typer.echo("  ".join(_cell(line[c]).ljust(widths[c]) for c in columns).rstrip())


def show_one(document: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(dict(document), indent=1, ensure_ascii=False))
        return
    for line in _pairs(document.items()):
        typer.echo(line)


def _pairs(items: Iterable[tuple[str, Any]]) -> list[str]:
    return [f"{name}: {_cell(value)}" for name, value in items if value not in (None, "", [])]


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _nearest(folder: Path) -> Path:
    """Some commands need no project, so none is no mistake yet: reading its params.yaml will be."""
    try:
        return find_root(folder)
    except FileNotFoundError:
        return folder.resolve()


def _is_typers(error: Exception) -> bool:
    """typer's own way to end or to complain about usage; its exceptions show themselves."""
    return type(error).__module__.split(".")[0] in {"typer", "click"}
