"""What comes from outside: the environment, the project's root and its YAML files. Only this module reads os.environ.

Settings of the work stand in params.yaml, one strict section a package; the environment (`SANA_*`) holds facts of the
machine only. A mistake in either is one ValueError line that names the key, the value and what was likely meant.
"""

from __future__ import annotations

import difflib
import os
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

Section = TypeVar("Section", bound=BaseModel)

_DEFAULTS = {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # 20 is too short where every core is at work
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
}


class MachineSettings(BaseSettings):
    """Facts of this machine, from `SANA_*` variables."""

    model_config = SettingsConfigDict(env_prefix="SANA_", env_ignore_empty=True, frozen=True)

    s3_endpoint: str | None = None  # an S3 service other than Amazon's
    s3_anonymous: bool = False  # read public buckets without credentials
    hub_endpoint: str = "https://huggingface.co"  # where published weights are fetched from; a mirror speaks the same
    scratch: Path | None = None  # where downloads lie while they are read; the system's temporary folder by default
    ray_address: str | None = Field(default=None, validation_alias="RAY_ADDRESS")  # of the cluster that shards go to
    caption_api_key: SecretStr | None = None  # of the endpoint that writes captions, where it asks for one


@dataclass(frozen=True)
class AppContext:
    """What the command line hands to every command."""

    root: Path
    params_path: Path
    overrides: list[str] = field(default_factory=list)
    as_json: bool = False


def machine() -> MachineSettings:
    """The machine's settings, read anew. ValueError on an impossible value."""
    try:
        return MachineSettings()
    except ValidationError as error:
        raise ValueError(f"environment: SANA_{_line(error, MachineSettings)}") from None


def prepare_environment(root: Path) -> None:
    """Turn the libraries' telemetry off, keep their state inside the project, and let a server start where the machine
    is busy; what the user has set stays."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_HOME", str(root / ".prefect"))


def share_cores(stages: int) -> None:
    """Give each of so many stages at once its share of the cores, unless the user has said otherwise.

    Two stages with a thread per core each took three times as long as with half the threads each: they wait in turns.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // stages)))


def find_root(start: Path) -> Path:
    """The nearest folder at or above `start` that holds params.yaml and dvc.yaml. FileNotFoundError if none does."""
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / "params.yaml").is_file() and (folder / "dvc.yaml").is_file():
            return folder
    raise FileNotFoundError(f"{start}: no project here or above (a folder with params.yaml and dvc.yaml)")


def load_yaml(path: Path) -> dict[str, Any]:
    """A YAML file whose top level is a mapping. ValueError names the line of a syntax error."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        document = _parse(path.read_bytes())
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name}{_where(error)}: not valid YAML: {_problem(error)}") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path.name}: expected sections `name: …` at the top level, found {_shown(document)}")
    return document


def load_section(path: Path, name: str, model: type[Section], overrides: Sequence[str] = ()) -> Section:
    """The section `name` (dotted) of the YAML file `path` as a `model`, after `overrides` like "data.split.fps=8"."""
    return validate(pick(override(load_yaml(path), overrides), name, path.name), name, model, path.name)


def override(document: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The document with each "dotted.key=value" put in (the value is YAML). The first part must be a section."""
    for text in overrides:
        key, mark, value = text.partition("=")
        parts = key.strip().split(".")
        if not mark or not all(parts):
            raise ValueError(f"--set {text}: expected section.key=value")
        if parts[0] not in document:
            raise ValueError(f"--set {text}: no section {parts[0]}{_meant(parts[0], document)}")
        document = _put(document, parts, _override_value(text, value))
    return document


def pick(document: Mapping[str, Any], name: str, origin: str) -> Any:
    """The value at a dotted name. ValueError if a part of it is missing."""
    value: Any = document
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ValueError(f"{origin}: section {name} is missing{_meant(part, value)}")
        value = value[part]
    return value


def validate(value: Any, name: str, model: type[Section], origin: str) -> Section:
    """`value` as a `model`; ValueError in one line that names the full key and the value."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        prefix = f"{name}." if name else ""
        raise ValueError(f"{origin}: {prefix}{_line(error, model)}") from None


def _put(document: dict[str, Any], parts: list[str], value: Any) -> dict[str, Any]:
    if len(parts) == 1:
        return {**document, parts[0]: value}
    below = document.get(parts[0])
    return {**document, parts[0]: _put(below if isinstance(below, dict) else {}, parts[1:], value)}


def _override_value(text: str, value: str) -> Any:
    try:
        return _parse(value.encode())
    except yaml.YAMLError as error:
        raise ValueError(f"--set {text}: not valid YAML: {_problem(error)}") from None


def _parse(data: bytes) -> Any:
    return yaml.safe_load(data)


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}" if mark else ""


def _problem(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or str(error).splitlines()[0])


def _line(error: ValidationError, model: type[BaseModel]) -> str:
    """The first mistake in full and the number of the others: one line is read, ten are not."""
    details = error.errors(include_url=False)
    first, others = details[0], len(details) - 1
    place, value = [str(part) for part in first["loc"]], _shown(first["input"])
    key = ".".join(place)
    if first["type"] == "extra_forbidden":
        text = f"{key}: unknown key (value {value}){_meant(place[-1], _names(model, place[:-1]))}"
    elif first["type"] == "missing":
        text = f"{key}: missing"
    else:
        text = f"{key}: {value} is not possible: {first['msg'].removeprefix('Value error, ')}"
    return text + (f" (and {others} more)" if others else "")


def _names(model: type[BaseModel], place: list[str]) -> list[str]:
    """The keys that are allowed at `place` below `model`."""
    kinds: list[Any] = [model]
    for part in place:
        kinds = [below for kind in kinds for below in _below(kind, part)]
    return [name for kind in kinds if _is_model(kind) for name in kind.model_fields]


def _below(kind: Any, part: str) -> list[Any]:
    if _is_model(kind):
        return _choices(kind.model_fields[part].annotation) if part in kind.model_fields else []
    arguments = typing.get_args(kind)
    return _choices(arguments[-1]) if arguments else []


def _choices(kind: Any) -> list[Any]:
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        return _choices(typing.get_args(kind)[0])
    if origin in (typing.Union, types.UnionType):
        return [choice for argument in typing.get_args(kind) for choice in _choices(argument)]
    return [kind]


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _meant(word: str, known: Any) -> str:
    names = [str(name) for name in known] if isinstance(known, (Mapping, list)) else []
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
