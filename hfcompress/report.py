"""Everything a run found out: what `report.json` holds, and nothing else.

The model card shows only what stands here. Ratios and differences are therefore part of the file too, under
`changes`; they follow from the measurements, and a file in which they do not is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any, Final, Literal, NoReturn, TypeAlias

from pydantic import ConfigDict, GetPydanticSchema, JsonValue, TypeAdapter, ValidationError
from pydantic_core import core_schema

from hfcompress.changes import Change, change, describe_change
from hfcompress.contracts import Format, Measurement, StepRecord
from hfcompress.cost_details import CostDetails  # noqa: TC001 - pydantic reads the annotation
from hfcompress.errors import CheckpointError, RunError, UnknownNameError
from hfcompress.redaction import redacted
from hfcompress.registry import did_you_mean

__all__ = [
    "FILE_NAME",
    "ArtifactRecord",
    "CardRecord",
    "DataRecord",
    "GateResult",
    "RecipeRecord",
    "Report",
    "SourceRecord",
    "TowerBytes",
    "public_id",
]

FILE_NAME = "report.json"
SCHEMA_VERSION: Final = 1
STRICT = ConfigDict(extra="forbid", strict=True)


def public_id(name: str) -> str:
    """Return `name` as others may see it: a path of this machine is cut to its last folder's name, an id is kept."""
    path = PureWindowsPath(name)  # it splits at both kinds of slash and knows drives
    parts = [part for part in path.parts if part not in {path.anchor, ".", "..", "~"}]
    is_id = name == "/".join(parts[-2:]) and not path.anchor
    return name if is_id else (parts[-1] if parts else "local")


@dataclass(frozen=True)
class SourceRecord:
    """The checkpoint that was compressed.

    Attributes:
        id: Hub id ("openai/clip-vit-base-patch32"), or the name of a local folder, never its path.
        revision: Commit sha of a Hub repository, the content fingerprint of a local folder.
        on_hub: Whether `id` is a Hub id.
        license: License as the source's card names it.
        license_name: Name of a license that is `other`.
        license_link: Address of a license that is `other`.
        architecture: The model's class ("CLIPModel").
        parameters: Number of parameters.
        remote_code: Whether code that comes with the checkpoint was run, as the recipe allowed.
    """

    __pydantic_config__ = STRICT

    id: str
    revision: str
    on_hub: bool
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    architecture: str | None = None
    parameters: int | None = None
    remote_code: bool = False

    def __post_init__(self) -> None:
        """Cut a path of this machine to its last folder's name."""
        object.__setattr__(self, "id", public_id(self.id))


@dataclass(frozen=True)
class RecipeRecord:
    """The recipe as it was run, in full, with the sha-256 of its UTF-8 text."""

    __pydantic_config__ = STRICT

    text: str
    sha256: str

    @classmethod
    def of(cls, text: str) -> RecipeRecord:
        """Return the record of a recipe's text."""
        return cls(text, hashlib.sha256(text.encode()).hexdigest())


@dataclass(frozen=True)
class GateResult:
    """One rule of one gate, checked.

    Attributes:
        name: The measurement.
        rule: What the recipe asks ("max_drop 0.01").
        held: Whether it holds.
        got: The number that was compared with the limit.
        detail: The same as a sentence.
    """

    __pydantic_config__ = STRICT

    name: str
    rule: str
    held: bool
    got: float
    detail: str


@dataclass(frozen=True)
class ArtifactRecord:
    """What the run wrote.

    Attributes:
        path: Where the artifact lies, relative to `report.json`.
        format: The folder's format.
        files: Bytes of each file, by path relative to `path`.
        load_with: The class that loads it ("optimum.onnxruntime.ORTModelForZeroShotImageClassification").
        pipeline_tag: The Hub's name of the task.
        architecture: The model's class ("CLIPModel").
        repo: The Hub repository it is pushed to, where there is one.
        imports_hfcompress: Whether it loads only once hfcompress is imported: some of its shapes are ones that no
            stock configuration says.
        requires: What must be installed to load it beside what its format always takes ("torchao>=0.18").
        dtype: Type of a torch checkpoint's weights that is not float32 ("float16").
    """

    __pydantic_config__ = STRICT

    path: str
    format: Format
    files: dict[str, int]
    load_with: str
    pipeline_tag: str | None = None
    architecture: str | None = None
    repo: str | None = None
    imports_hfcompress: bool = False
    requires: tuple[str, ...] = ()
    dtype: str | None = None


@dataclass(frozen=True)
class TowerBytes:
    """What the weights of one tower take on disk, in the artifact's own format.

    Attributes:
        name: "vision", "text", ...; "other" for what belongs to no tower or whose name tells of none.
        source: Bytes in the source's float32 form in the artifact's runtime, or in the source where that is torch.
        compressed: Bytes in the result.
    """

    __pydantic_config__ = STRICT

    name: str
    source: int
    compressed: int


@dataclass(frozen=True)
class CardRecord:
    """What the recipe's author adds to the card.

    Attributes:
        text: Markdown, for a section of its own.
        tags: Tags beside those that hfcompress sets.
    """

    __pydantic_config__ = STRICT

    text: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataRecord:
    """Rows that the run read, under their name in the recipe.

    Attributes:
        name: What the recipe calls them.
        dataset: Hub id, or the name of a local folder, never its path.
        config: Configuration of the dataset, where the recipe names one.
        split: The split as the recipe writes it.
        revision: Commit sha of a Hub dataset, the content fingerprint of a local one.
        on_hub: Whether `dataset` is a Hub id.
        requested: How many rows the split asks for, where it says a number.
        used: How many rows there were.
    """

    __pydantic_config__ = STRICT

    name: str
    dataset: str
    config: str | None
    split: str
    revision: str
    on_hub: bool
    requested: int | None
    used: int


@dataclass(frozen=True)
class _StepRow:
    """A `StepRecord` with a detail that pydantic can check; the contract's own recursive alias overflows its stack."""

    __pydantic_config__ = STRICT

    use: str
    seconds: float
    cached: bool
    detail: dict[str, JsonValue]


def _step_records(rows: tuple[_StepRow, ...]) -> tuple[StepRecord, ...]:
    return tuple(StepRecord(row.use, row.seconds, row.cached, row.detail) for row in rows)


StepRecords: TypeAlias = Annotated[
    tuple[StepRecord, ...],
    GetPydanticSchema(
        lambda _, handler: core_schema.no_info_after_validator_function(
            _step_records, handler.generate_schema(tuple[_StepRow, ...])
        )
    ),
]


@dataclass(frozen=True)
class Report:
    """A run, from the source to the artifact; `report["size_bytes"]` is one of its measurements.

    Paths of this machine among the datasets' names are cut to their last folder's name.
    """

    __pydantic_config__ = STRICT

    source: SourceRecord
    recipe: RecipeRecord
    steps: StepRecords
    measurements: tuple[Measurement, ...]
    gates: tuple[GateResult, ...]
    artifact: ArtifactRecord
    environment: dict[str, str | int]
    towers: tuple[TowerBytes, ...] = ()
    card: CardRecord = CardRecord()
    data: tuple[DataRecord, ...] = ()
    cost_details: CostDetails | None = None
    schema_version: Literal[1] = SCHEMA_VERSION

    def __post_init__(self) -> None:
        """Cut paths of this machine to their last folder's name."""
        public = (
            dataclasses.replace(row, dataset=None if row.dataset is None else public_id(row.dataset))
            for row in self.measurements
        )
        object.__setattr__(self, "measurements", tuple(public))

    def __getitem__(self, name: str) -> Measurement:
        """Return the measurement of that name; the first, where two datasets were measured.

        Raises:
            UnknownNameError: The run did not measure it.
        """
        names = [row.name for row in self.measurements]
        if name not in names:
            known = ", ".join(names) or "none"
            msg = f"the report has no measurement {name!r}{did_you_mean(name, names)}; it has: {known}"
            raise UnknownNameError(msg)
        return self.measurements[names.index(name)]

    @property
    def changes(self) -> tuple[Change, ...]:
        """Ratio and difference of each measurement, in the same order, then of each tower's FLOPs."""
        towers = () if self.cost_details is None else self.cost_details.tower_measurements
        return tuple(change(row) for row in (*self.measurements, *towers))

    @property
    def shortfalls(self) -> tuple[str, ...]:
        """What the result did not gain, in words: "1.1x larger", "no faster"; empty where it is smaller and faster."""
        costs = [
            row for row in self.measurements if row.name in {"size_bytes", "latency_ms"} and row.source is not None
        ]
        told = [describe_change(row) for row in costs]
        return tuple(words for words in told if words.startswith("no ") or words.endswith(("larger", "slower")))

    @property
    def failed_gates(self) -> tuple[GateResult, ...]:
        """The gates that do not hold."""
        return tuple(gate for gate in self.gates if not gate.held)

    def to_json(self) -> str:
        """Return the text of `report.json`, the same for equal reports.

        Raises:
            RunError: A number is not finite, or a step's detail holds something that JSON cannot.
        """
        record = dataclasses.asdict(self)
        rows: dict[str, Any] = {"schema_version": record.pop("schema_version")} | record
        rows["changes"] = [dataclasses.asdict(row) for row in self.changes]
        for key in ("measurements", "changes", "gates"):
            rows[key] = _whole_as_int(rows[key])
        for step in rows["steps"]:
            step["seconds"] = _whole_as_int(step["seconds"])
        try:
            text = redacted(json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False)) + "\n"
            text.encode()  # a lone surrogate is no text that a file can hold
        except (TypeError, ValueError) as error:
            msg = f"the report cannot be written as JSON: {error}; every number must be finite, every detail plain JSON"
            raise RunError(msg) from error
        return text

    @classmethod
    def from_json(cls, text: str, origin: str = FILE_NAME) -> Report:
        """Return the report that `to_json` wrote.

        Args:
            text: The text of a `report.json`.
            origin: What error messages call it.

        Raises:
            CheckpointError: The text is not a report of this version of hfcompress, or it contradicts itself.
        """
        rows = _parsed(text, origin)
        changes = rows.pop("changes", None)
        try:
            report = TypeAdapter(cls).validate_json(json.dumps(rows))
        except ValidationError as error:
            lines = [f"{origin}: {'.'.join(map(str, row['loc']))}: {row['msg']}" for row in error.errors()]
            raise CheckpointError("\n".join(lines)) from error
        if changes != json.loads(report.to_json())["changes"]:
            msg = f"{origin}: changes: they do not follow from the measurements; the file was edited after the run"
            raise CheckpointError(msg)
        if RecipeRecord.of(report.recipe.text) != report.recipe:
            msg = f"{origin}: recipe.sha256: it is not that of recipe.text; the file was edited after the run"
            raise CheckpointError(msg)
        return report

    def save(self, folder: Path) -> Path:
        """Write `report.json` into an existing folder, whole or not at all, and return its path.

        Raises:
            RunError: It cannot be written.
        """
        path = folder / FILE_NAME
        draft = folder / f".{FILE_NAME}.{os.getpid()}.tmp"
        text = self.to_json()
        try:
            with draft.open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            msg = f"{path} cannot be written: {error.strerror}"
            raise RunError(msg) from error
        return path

    @classmethod
    def load(cls, folder: Path) -> Report:
        """Read the `report.json` of an artifact's folder.

        Raises:
            CheckpointError: The folder holds none, or it is not a report of this version of hfcompress.
        """
        path = folder / FILE_NAME
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            msg = f"{path} cannot be read: {error}; is {folder} an artifact of hfcompress?"
            raise CheckpointError(msg) from error
        return cls.from_json(text, str(path))


def _parsed(text: str, origin: str) -> dict[str, Any]:
    """Return the JSON object in `text` after its version has been checked."""

    def not_finite(name: str) -> NoReturn:
        msg = f"{name} is not a number that a report may hold"
        raise ValueError(msg)

    try:
        rows = json.loads(text, parse_constant=not_finite)
    except (ValueError, RecursionError) as error:
        msg = f"{origin} is not JSON: {error}"
        raise CheckpointError(msg) from error
    if not isinstance(rows, dict):
        msg = f"{origin}: expected a JSON object, got {type(rows).__name__}"
        raise CheckpointError(msg)
    if rows.get("schema_version") != SCHEMA_VERSION:
        msg = (
            f"{origin}: schema_version: got {rows.get('schema_version')!r}, this hfcompress reads {SCHEMA_VERSION}; "
            "install the version of hfcompress that wrote the report"
        )
        raise CheckpointError(msg)
    return rows


def _whole_as_int(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return the value with whole floats as ints, so that bytes read as bytes and 1.0 and 1 write alike."""
    if isinstance(value, dict):
        return {key: _whole_as_int(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole_as_int(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
