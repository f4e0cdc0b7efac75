"""What passes between the parts of hfcompress, and the three classes that a third party extends.

A step takes a checkpoint folder and writes another one; a task runs a loaded model over rows and measures it; a
runtime loads a checkpoint folder. All three are found by name through `hfcompress.registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from datasets import Dataset
    from transformers import PretrainedConfig, ProcessorMixin

__all__ = [
    "CalibratedOptions",
    "Checkpoint",
    "Forecast",
    "Format",
    "Json",
    "Measurement",
    "Model",
    "Options",
    "Progress",
    "Ratio",
    "Rows",
    "Runtime",
    "Step",
    "StepContext",
    "StepRecord",
    "Task",
    "TaskOptions",
    "Value",
]

Format: TypeAlias = Literal["transformers", "onnx", "openvino"]
Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"
Arrays: TypeAlias = "Mapping[str, np.ndarray]"
Ratio: TypeAlias = Annotated[float, Field(ge=0.0, lt=1.0, description="The fraction removed, in [0, 1).")]


class Options(BaseModel):
    """Base of everything a recipe can say: unknown keys are errors and values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CalibratedOptions(Options):
    """Options of a step that looks at calibration rows."""

    calibration: str | None = Field(None, description="Name of the entry of `data` whose rows calibrate this step.")


class TaskOptions(Options):
    """Options that every evaluation task has."""

    data: str = Field(description="Name of the entry of `data` that is evaluated on.")
    batch_size: int = Field(32, ge=1, description="Rows that go through the model at once.")


AnyOptions: TypeAlias = type[Options]
"""A class of options, under a name that the attribute `Options` of steps and tasks does not hide."""


@dataclass(frozen=True)
class Checkpoint:
    """A model folder: what `save_pretrained` writes, or an export in the layout that optimum reads."""

    path: Path
    format: Format


@dataclass(frozen=True)
class Rows:
    """Rows of a dataset under the names that tasks and steps use ("image", "text", "audio", "label").

    Attributes:
        dataset: The rows; its columns are already renamed as the recipe asks.
        name: The dataset's Hub id or folder.
        revision: Commit sha of a Hub dataset, the content fingerprint of a local one.
        split: The split as the recipe writes it ("test[:256]").
        requested: How many rows the split asks for, where it says a number.
    """

    dataset: Dataset
    name: str
    revision: str
    split: str
    requested: int | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.dataset)

    def batches(self, size: int, numbers: Iterable[int] | None = None) -> Iterator[dict[str, list[Any]]]:
        """Iterate over column-wise batches of at most `size` rows, decoded one batch at a time.

        Args:
            size: Rows of a batch.
            numbers: Which batches are wanted, counted from 0; all by default. No other is decoded.
        """
        for number in range(-(-len(self) // size)) if numbers is None else numbers:
            yield self.dataset[number * size : (number + 1) * size]

    def record(self) -> dict[str, Json]:
        """Return which rows these are, as a report tells of them."""
        return {"dataset": self.name, "revision": self.revision, "split": self.split, "rows": len(self)}


class Progress:
    """Hears how a run goes. This base class is silent; the command line shows what it hears."""

    def stage(self, name: str) -> None:
        """Begin a stage of the run ("evaluate source")."""

    def track(self, items: Iterable[Any], total: int, label: str) -> Iterator[Any]:
        """Yield from `items` while reporting how many of `total` are done."""
        del total, label
        yield from items

    def note(self, text: str) -> None:
        """Tell one thing that the user should know and need not act on."""


@dataclass(frozen=True)
class StepContext:
    """What a step is given besides its checkpoint.

    Attributes:
        calibration: The rows that the step's `calibration` option names.
        seed: Seeds everything random.
        progress: Hears how far the step is.
    """

    calibration: Rows | None = None
    seed: int = 0
    progress: Progress = field(default_factory=Progress)


@dataclass(frozen=True)
class Forecast:
    """What a checkpoint is, or what a step will make of it, read from configs alone.

    Attributes:
        config: The model's configuration, as it will be after the step.
        format: The folder's format after the step.
        parameters: Number of parameters.
        size_bytes: Predicted bytes of the weights on disk.
        changes: One sentence for each thing that the step will change.
    """

    config: PretrainedConfig
    format: Format
    parameters: int
    size_bytes: int
    changes: tuple[str, ...] = ()


class Step(ABC):
    """A compression step: from one checkpoint folder to another.

    Subclasses set `Options`, `accepts` and `produces`, and are found through the entry-point group
    `hfcompress.steps`.
    """

    Options: ClassVar[AnyOptions]
    """Validates what the recipe says beside `use`."""

    def __init__(self, options: Any) -> None:  # noqa: ANN401 - an instance of the subclass's own Options
        self.options = options

    @classmethod
    def options_model(cls, given: Mapping[str, Any]) -> AnyOptions:
        """Return the model that validates `given`; a step whose options depend on one of them overrides this."""
        del given
        return cls.Options

    @property
    @abstractmethod
    def accepts(self) -> frozenset[Format]:
        """The checkpoint formats that the step can take."""

    @property
    @abstractmethod
    def produces(self) -> Format:
        """The checkpoint format that the step gives."""

    @property
    def extra(self) -> str | None:
        """The extra of hfcompress that must be installed ("onnxruntime"), if any."""
        return None

    @abstractmethod
    def forecast(self, before: Forecast) -> Forecast:
        """Say what the step will change, without reading any weights.

        Raises:
            PruningError, QuantizationError, CheckpointError: The step cannot be applied to such a model.
        """

    @abstractmethod
    def apply(self, checkpoint: Checkpoint, output: Path, context: StepContext) -> dict[str, Json]:
        """Read `checkpoint`, write the result into the empty folder `output`, and return details for the report.

        Raises:
            RunError: The step failed; whatever is in `output` is thrown away by the caller.
        """


@dataclass(frozen=True)
class StepRecord:
    """A step as it ran."""

    use: str
    seconds: float
    cached: bool
    detail: dict[str, Json]


class Model(ABC):
    """A loaded checkpoint of any runtime: arrays in, arrays out.

    Attributes:
        config: The configuration of the model.
        processor: Turns images, texts and audio into the model's inputs.
        inputs: Names of the inputs that a call takes.
        stock: The object of the stock class behind it ("a `CLIPModel`, an `ORTModelForZeroShotImageClassification`").
    """

    config: PretrainedConfig
    processor: ProcessorMixin
    inputs: frozenset[str]
    stock: Any

    @abstractmethod
    def __call__(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Run the model; returns its outputs by name ("image_embeds": float32 of shape (batch, width))."""


class Runtime(ABC):
    """Loads checkpoints of one format, and turns a transformers checkpoint into that format in float32."""

    format: ClassVar[Format]
    extra: ClassVar[str | None] = None

    @abstractmethod
    def load(self, path: Path, threads: int | None = None) -> Model:
        """Load a folder.

        Args:
            path: The checkpoint folder.
            threads: Threads that a call may use; all that the runtime wants by default.

        Raises:
            CheckpointError: The folder holds nothing this runtime can load.
        """

    @abstractmethod
    def export(self, checkpoint: Checkpoint, output: Path) -> Checkpoint:
        """Write the float32 form of a transformers checkpoint for this runtime into `output`.

        Raises:
            QuantizationError: The runtime has no export for this architecture.
        """

    @abstractmethod
    def describe(self, config: PretrainedConfig) -> str:
        """Say how a model of this configuration gets into the runtime ("exported as zero-shot-image-classification").

        Raises:
            QuantizationError: The runtime has no export for this architecture.
        """

    @abstractmethod
    def load_class(self, path: Path) -> str:
        """Return the stock class that loads the folder ("transformers.CLIPModel")."""


@dataclass(frozen=True)
class Value:
    """A measured number with its 95 % interval, where it has one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Measurement:
    """One quantity, of the source and of the result, on the same rows and the same machine.

    Attributes:
        name: snake_case, with the unit where it has one ("zero_shot_accuracy", "latency_ms").
        unit: "ratio", "bytes", "ms", "rows/s", "count", "cosine", "nats", or "score" for a number without one (BLEU).
        higher_is_better: Which way is good.
        compressed: The result's value.
        source: The source's value; for size and latency that of its float32 form in the artifact's own runtime.
            `None` where the quantity compares the two (fidelity), or where one model alone was measured.
        as_published: For size and speed, the source's value as it is used today, in torch.
        difference: The result's value less the source's, with the 95 % interval of that difference over the same rows
            (paired); the change is within noise where the interval holds 0.
        n: Rows or repetitions behind the values.
        task: The task that measured it; `None` for size and speed.
        dataset: The dataset's id, with `revision` and `split`.
        label: What a table shows ("top-1 accuracy").
    """

    name: str
    label: str
    unit: str
    higher_is_better: bool
    compressed: Value
    source: Value | None = None
    as_published: Value | None = None
    difference: Value | None = None
    n: int | None = None
    task: str | None = None
    dataset: str | None = None
    revision: str | None = None
    split: str | None = None


class Task(ABC):
    """Evaluates a model on rows. Found through the entry-point group `hfcompress.tasks`.

    A run calls `predict` for the source, `follow` for the result, and `compare`; `hfcompress.evaluate` calls `predict`
    and `measure`. A task has to say `predict` and `compare`; the other two have a sensible form of their own.
    """

    Options: ClassVar[type[TaskOptions]]
    columns: ClassVar[frozenset[str]]
    """Columns that the rows must have ("image", "label")."""
    measures: ClassVar[tuple[str, ...]]
    """Names of all measurements the task gives."""
    compared: ClassVar[tuple[str, ...]] = ()
    """Those of them that compare the result with the source, which therefore has no value of its own."""

    def __init__(self, options: Any) -> None:  # noqa: ANN401 - an instance of the subclass's own Options
        self.options = options

    @abstractmethod
    def predict(self, model: Model, rows: Rows, progress: Progress) -> Any:  # noqa: ANN401 - the task's own dataclass
        """Run the model over the rows and return what `compare` needs of it."""

    def follow(self, model: Model, rows: Rows, source: Any, progress: Progress) -> Any:  # noqa: ANN401
        """Run the result over the rows when the source's predictions are known, and return what `compare` needs of it.

        A task that has the result repeat what the source did, token by token, overrides this; others only predict.
        """
        del source
        return self.predict(model, rows, progress)

    @abstractmethod
    def compare(self, source: Any, compressed: Any, rows: Rows) -> list[Measurement]:  # noqa: ANN401
        """Turn the predictions of source and result on the same rows into measurements."""

    def measure(self, predictions: Any, rows: Rows) -> list[Measurement]:  # noqa: ANN401
        """Turn the predictions of one model alone into measurements, its values being `compressed`.

        Those of a comparison with itself, without the fidelity that such a comparison cannot tell.
        """
        return [
            replace(measured, source=None, difference=None)
            for measured in self.compare(predictions, predictions, rows)
            if measured.source is not None
        ]
