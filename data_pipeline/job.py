"""What every command of the data pipeline opens first: the project it works in, its parameters, and their tables.

Commands stand in `cli.py` and in modules beside what they call; all of them read params, run as a stage and refuse a
user's mistake through this one door. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from infra.settings import AppContext, find_root, load_section, load_yaml

if TYPE_CHECKING:
    import pyarrow as pa

    from data_pipeline.params import Clips, DataParams, View
    from infra.stage import Progress

    Counters = Mapping[str, float | int | str]

Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a parameter.")
]
Show = Annotated[bool, typer.Option("--print-config", help="Print the parameters in force and do nothing.")]

SELECTION = "data/selection.parquet"
SFT = "data/sft.parquet"
QUARANTINE = "data/quarantine.parquet"
CLASSES = "data/classes.parquet"
JOINED = ("videos", "clips", "scores", "captions")


@dataclass(frozen=True)
class Job:
    """The project a command works in, with its parameters."""

    root: Path
    params_path: Path
    overrides: list[str]
    params: DataParams

    def run(self, stage: str, work: Callable[[Progress], Counters]) -> NoReturn:
        from infra import stage as stages

        raise typer.Exit(stages.run(stage, work, root=self.root))

    def write(self, table: str, rows: Iterable[Mapping[str, Any]], path: str) -> Counters:
        from data_pipeline import tables

        written = tables.write(table, rows, self.root / path)
        dropped = written.num_rows - written.column("reason").null_count if "reason" in written.schema.names else 0
        return {table: written.num_rows, "with a reason": dropped} if dropped else {table: written.num_rows}

    def write_columns(self, table: str, columns: pa.Table, path: str) -> Counters:
        from data_pipeline import tables

        return {table: tables.write_columns(table, columns, self.root / path).num_rows}

    def read(self, table: str, batch: str) -> pa.Table:
        from data_pipeline import tables

        return tables.read(table, self.root / "data" / table / f"{batch}.parquet")

    def join(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        from data_pipeline import curate

        return curate.join(table, self.root, list(self.params.batches), columns)

    def tables(self) -> dict[str, Path]:
        """Every table from ingest to selection, by the path that verdicts name it by."""
        names = [f"data/{table}/{batch}.parquet" for table in JOINED for batch in sorted(self.params.batches)]
        return {name: self.root / name for name in [*names, "data/twins.parquet", CLASSES, QUARANTINE, SELECTION]}

    def verdict(self, boundary: str) -> Path:
        return self.root / "reports" / "gates" / f"{boundary}.json"

    def open_gate(self, clips: Clips = "selection") -> None:
        """Raises GateRed or GateBroken unless every table, and `sft` with the set, is as a green verdict saw it."""
        from infra.gates import require

        require(self.verdict("data"), tables=self.tables())
        if clips == "sft":
            require(self.verdict("sft"), tables={name: self.root / name for name in (SFT, SELECTION)})

    def clips(self, view: str) -> Clips:
        """Which of the kept clips a view holds."""
        return "selection" if view == "pixels" else self.params.views[view].clips

    def chosen(self, clips: Clips) -> pa.Table:
        """The rows of the selection: all, or those of the SFT set."""
        from data_pipeline import tables
        from data_pipeline.sft.choose import only_chosen

        selection = tables.read("selection", self.root / SELECTION)
        if clips == "selection":
            return selection
        return only_chosen(selection, tables.read("sft", self.root / SFT, ["clip_id", "chosen"]))

    def kept(self, clips: Clips) -> dict[str, pa.Table]:
        """The tables of all batches, joined, with the rows of the selection that `chosen` gives."""
        return {**{name: self.join(name) for name in JOINED}, "selection": self.chosen(clips)}

    def view(self, name: str) -> View:
        return self.params.pixels if name == "pixels" else self.params.views[name]


def open_job(context: typer.Context, overrides: list[str] | None, show: bool) -> Job:
    """The job of a command; with `show`, print the section and end. A mistake of the user's ends it with exit 2."""
    from data_pipeline.params import DataParams

    try:
        given = context.obj if isinstance(context.obj, AppContext) else None
        root = given.root if given else find_root(Path.cwd())
        path = given.params_path if given else root / "params.yaml"
        changes = [*(given.overrides if given else []), *(overrides or [])]
        job = Job(root, path, changes, load_section(path, "data", DataParams, changes))
    except (ValueError, FileNotFoundError) as error:
        refuse(str(error))
    if show:
        import yaml

        typer.echo(yaml.safe_dump({"data": job.params.model_dump(mode="json")}, sort_keys=False), nl=False)
        raise typer.Exit
    return job


def measure_versions(root: Path) -> dict[str, int]:
    """Of each measure, as versions.yaml states them. ValueError, FileNotFoundError where it names other ones."""
    from data_pipeline.score import MEASURE_VERSIONS

    stated = load_yaml(root / "versions.yaml").get("measures")
    if not isinstance(stated, dict):
        raise ValueError("versions.yaml has no section `measures` with the version of each measure")
    if stated.keys() != MEASURE_VERSIONS.keys():
        raise ValueError(f"versions.yaml names the measures {sorted(stated)}, the code has {sorted(MEASURE_VERSIONS)}")
    return stated


def refuse(line: str) -> NoReturn:
    typer.echo(line, err=True)
    raise typer.Exit(2)


def known(kind: str, name: str, names: Iterable[str]) -> None:
    if name not in (listed := list(names)):
        refuse(f"unknown {kind} {name!r}: params.yaml has {', '.join(listed)}")


def as_json(context: typer.Context) -> bool:
    return isinstance(context.obj, AppContext) and context.obj.as_json
