"""A recipe: the YAML file that says what is done to a model, as frozen objects.

`load_recipe` is the one way in: it reads, merges, validates, cross-checks, and resolves local folders. Nothing here
imports torch, transformers or the network.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializeAsAny,
    ValidationError,
    model_validator,
)

from hfcompress.contracts import Options, Step, Task, TaskOptions
from hfcompress.errors import Problem, RecipeError, UsageError
from hfcompress.recipe_checks import contradictions
from hfcompress.registry import STEPS, TASKS, Registry
from hfcompress.validation import Mistake, mistakes_error, mistakes_of, shown, validated
from hfcompress.yaml_source import Document, read_document
from hfcompress.yaml_text import KeyPath, dump

__all__ = [
    "BenchmarkOptions",
    "Card",
    "DataReference",
    "Gate",
    "ModelReference",
    "Push",
    "Recipe",
    "StepSpec",
    "TaskSpec",
    "load_recipe",
]

T = TypeVar("T")

_HUB_ID = re.compile(r"(?!.*(?:--|\.\.))(?:\w(?:[\w.-]*\w)?/)?\w(?:[\w.-]{0,94}\w)?(?<!\.git)", re.ASCII)
_LOCAL = re.compile(r"(?:/|~|\.{1,2}(?:/|$))")


class _Section(BaseModel):
    """Base of the recipe's own sections: unknown keys are errors and values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _hub_id(name: str) -> str:
    if not _HUB_ID.fullmatch(name):
        msg = f"got {name!r}, expected the id of a Hub repository, as in owner/name"
        raise ValueError(msg)
    return name


class ModelReference(_Section):
    """The checkpoint that is compressed."""

    id: str = Field(description="Hub id of the model (`owner/name`), or a local folder, relative to the recipe.")
    revision: str = Field("main", description="Branch, tag or commit on the Hub; it is resolved to a commit.")
    trust_remote_code: bool = Field(
        default=False, description="Whether the classes in the checkpoint's own Python files may run; read them first."
    )
    allow_pickle: bool = Field(
        default=False,
        description="Whether weights may come from `pytorch_model.bin` where there are no safetensors; tensors alone "
        "are read from it.",
    )

    @property
    def is_local(self) -> bool:
        """Whether `id` is a local folder; in a loaded recipe it is then absolute."""
        return Path(self.id).is_absolute()


class DataReference(_Section):
    """Rows of a dataset, named once and used by steps and evaluations."""

    dataset: str = Field(description="Hub id of the dataset, or a local folder, relative to the recipe.")
    config: str | None = Field(None, description="Configuration of the dataset, for those that have several.")
    split: str = Field(description='Split, and which of its rows: "test", "train[:256]".')
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Name that steps and tasks use (image, text, audio, label, question, answer) → the dataset's own "
        "column. Without this mapping the dataset's columns must have those names already.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a dataset on the Hub.")
    max_seconds: float | None = Field(
        None, gt=0, description="Of the rows of the split, those whose sound lasts longer are left out."
    )

    @property
    def is_local(self) -> bool:
        """Whether `dataset` is a local folder; in a loaded recipe it is then absolute."""
        return Path(self.dataset).is_absolute()


class StepSpec(_Section):
    """One step as the recipe asks for it: `use` names it, the other keys are its options."""

    use: str = Field(description="Name of the step; `hfcompress list` names all of them.")
    options: SerializeAsAny[Options] = Field(description="The step's validated options.")

    @model_validator(mode="before")
    @classmethod
    def _choose_options(cls, given: object) -> object:
        return _with_options(given, "use", STEPS, lambda step, options: step.options_model(options))

    def build(self) -> Step:
        """Return the step, ready to forecast and to apply."""
        return STEPS.get(self.use)(self.options)


class TaskSpec(_Section):
    """One evaluation as the recipe asks for it: `task` names it, the other keys are its options."""

    task: str = Field(description="Name of the task; `hfcompress list` names all of them.")
    options: SerializeAsAny[TaskOptions] = Field(description="The task's validated options.")

    @model_validator(mode="before")
    @classmethod
    def _choose_options(cls, given: object) -> object:
        return _with_options(given, "task", TASKS, lambda task, _: task.Options)

    def build(self) -> Task:
        """Return the task, ready to predict and to compare."""
        return TASKS.get(self.task)(self.options)


class Gate(_Section):
    """Limits of one measurement; nothing is pushed unless all of them hold."""

    max_drop: float | None = Field(
        None, ge=0, description="By how much the result may be worse than the source, in the measurement's unit."
    )
    min_ratio: float | None = Field(
        None,
        gt=0,
        description="How many times better than the source the result must be: 4.0 asks for a quarter of the size.",
    )
    min_value: float | None = Field(None, description="The least that the result may reach.")
    max_value: float | None = Field(None, description="The most that the result may reach.")

    @model_validator(mode="after")
    def _sets_a_limit(self) -> Gate:
        if all(limit is None for limit in (self.max_drop, self.min_ratio, self.min_value, self.max_value)):
            msg = "sets no limit; expected at least one of max_drop, min_ratio, min_value, max_value"
            raise ValueError(msg)
        if self.min_value is not None and self.max_value is not None and self.min_value > self.max_value:
            msg = f"min_value {self.min_value:g} is above max_value {self.max_value:g}, so nothing can hold it"
            raise ValueError(msg)
        return self


def _with_defaults(gates: dict[str, Gate | None]) -> dict[str, Gate | None]:
    return gates | {name: Gate(min_ratio=1.0) for name in ("size_bytes", "latency_ms") if name not in gates}


_Gates: TypeAlias = Annotated[dict[str, Gate | None], AfterValidator(_with_defaults)]


def _different(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(sizes)) < len(sizes):
        msg = f"got {list(sizes)}, expected each number of rows once"
        raise ValueError(msg)
    return sizes


class BenchmarkOptions(_Section):
    """How latency, throughput and memory are measured."""

    batch_size: int = Field(1, ge=1, description="Rows in a call whose latency is measured.")
    repeats: int = Field(50, ge=1, description="Timed calls of the source and of the result, in alternation.")
    threads: int | None = Field(None, ge=1, description="CPU threads of a call; all that the runtime wants by default.")
    throughput_batch_sizes: Annotated[tuple[Annotated[int, Field(ge=1)], ...], AfterValidator(_different)] = Field(
        (8,), description="Rows in a call whose throughput is measured, one measurement for each; empty for none."
    )
    memory: bool = Field(
        default=True,
        description="Whether the peak memory of source and result is measured, each in a fresh process of its own.",
    )

    @property
    def throughput_names(self) -> dict[str, int]:
        """Measurement → rows in a call, least rows first; the one with the most has the plain name."""
        sizes = sorted(self.throughput_batch_sizes)
        names = [f"throughput_per_s_at_{size}" for size in sizes[:-1]] + ["throughput_per_s"] * bool(sizes)
        return dict(zip(names, sizes, strict=True))


def _tag(tag: str) -> str:
    if not re.fullmatch(r"[\w.+-]{1,96}", tag, re.ASCII):
        msg = f"got {shown(tag)}, expected a tag of letters, digits, '.', '_', '+' and '-'"
        raise ValueError(msg)
    return tag


def _closed(text: str) -> str:
    """Make sure that Markdown after this text is read as Markdown again."""
    from markdown_it import MarkdownIt

    *_, last = MarkdownIt("commonmark").enable("table").parse(f"{text}\n\n# end\n")
    if (last.type, last.level) != ("heading_close", 0):
        msg = "the text leaves a code block or HTML open, which would swallow the rest of the card; close it"
        raise ValueError(msg)
    return text


class Card(_Section):
    """What the author adds to the model card."""

    text: Annotated[str, AfterValidator(_closed)] | None = Field(
        None, description="Markdown for a section of its own, about what the model is for and whatever else is to say."
    )
    tags: tuple[Annotated[str, AfterValidator(_tag)], ...] = Field(
        (), description="Tags of the repository, beside those that hfcompress sets."
    )


class Push(_Section):
    """Where the result goes."""

    repo: Annotated[str, AfterValidator(_hub_id)] = Field(description="Hub repository, made when it does not exist.")
    private: bool = Field(default=False, description="Whether a new repository is private.")
    create_pr: bool = Field(default=False, description="Open a pull request instead of committing to the branch.")
    revision: str | None = Field(None, description="Branch to commit to; the repository's main branch by default.")
    message: str | None = Field(None, description="Message of the commit.")


class Recipe(_Section):
    """What is done to which model, how it is measured, and what must hold before it is pushed."""

    version: Literal[1] = Field(description="Version of the recipe format.")
    model: ModelReference = Field(description="The checkpoint that is compressed.")
    data: dict[str, DataReference] = Field(
        default_factory=dict, description="Name → rows; a step's `calibration` and a task's `data` use the names."
    )
    steps: tuple[StepSpec, ...] = Field(min_length=1, description="What is done, in this order.")
    evaluate: tuple[TaskSpec, ...] = Field((), description="What is measured, of the source and of the result.")
    gates: _Gates = Field(
        default_factory=dict,
        validate_default=True,
        description="Measurement → its limits. `{min_ratio: 1.0}` of size_bytes and latency_ms holds by default: "
        "a result that is larger or slower than its source is refused; null lifts it.",
    )
    benchmark: BenchmarkOptions = Field(
        BenchmarkOptions(), description="How latency, throughput and memory are measured."
    )
    card: Card = Field(Card(), description="What is added to the model card.")
    push: Push | None = Field(None, description="Where the result goes; nowhere by default.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seeds everything random.")

    _text: str = PrivateAttr("")
    _base: Path = PrivateAttr(Path())
    _name: str = PrivateAttr("recipe")
    _document: Document | None = PrivateAttr(None)

    @property
    def text(self) -> str:
        """The recipe as it runs, in YAML: includes merged, `--set` applied, paths as they were written."""
        return self._text

    @property
    def sha256(self) -> str:
        """SHA-256 of `text`, in hexadecimal."""
        return hashlib.sha256(self._text.encode()).hexdigest()

    @property
    def base(self) -> Path:
        """The folder that relative paths start from: the recipe's own, or the current one for a mapping."""
        return self._base

    @property
    def name(self) -> str:
        """A short name for what the recipe makes: its file's, or its folder's where the file is `recipe.yaml`."""
        return self._name

    def problem(self, path: KeyPath, message: str) -> Problem:
        """Return a mistake that shows only once the model or its data are looked at, placed at a key."""
        if self._document is None:
            return Problem("recipe", ".".join(str(key) for key in path), message)
        return self._document.problem(path, message)


def load_recipe(
    source: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), *, base: Path | None = None
) -> Recipe:
    """Return a recipe in which every name, type and reference has been checked.

    Local folders become absolute. All relative paths of models and datasets start from `base`, those in included files
    too; the names of included files start from the file that includes them.

    Args:
        source: A YAML file, or the values themselves.
        overrides: Each `a.b.0.c=value`, the value in YAML; applied in order, after the includes.
        base: By default the folder of `source`, or the current one for values.

    Raises:
        RecipeError: The recipe has mistakes; the error holds all of them, each with its file, line and column.
    """
    document = read_document(source, overrides, base)
    if document.tokens:
        raise RecipeError(list(document.tokens))
    try:
        recipe = validated(Recipe, document.values)
    except ValidationError as error:
        mistakes = mistakes_of(error, Recipe, document.values, also=("include",))
        raise _recipe_error(document, mistakes) from None
    mistakes, recipe = _resolved(recipe, document.base)
    mistakes += contradictions(recipe)
    if mistakes or document.problems:
        raise _recipe_error(document, mistakes)
    recipe._text = dump(document.values)  # noqa: SLF001 - this function is the recipe's constructor
    recipe._base = document.base  # noqa: SLF001
    recipe._document = document  # noqa: SLF001
    if isinstance(source, (str, Path)):
        file = Path(source)
        recipe._name = file.stem if file.stem != "recipe" else document.base.resolve().name  # noqa: SLF001
    return recipe


def _recipe_error(document: Document, mistakes: list[Mistake]) -> RecipeError:
    problems = [document.problem(mistake.path, mistake.message) for mistake in mistakes]
    return RecipeError(sorted([*document.problems, *problems], key=_reading_order))


def _reading_order(problem: Problem) -> tuple[str, int, int]:
    return problem.source, problem.line or 0, problem.column or 0


def _with_options(
    given: object, key: str, registry: Registry[T], model_of: Callable[[T, Mapping[str, Any]], type[Options]]
) -> object:
    """Return `{key: name, "options": ...}` for a mapping that holds a name and, beside it, the options of the name."""
    if isinstance(given, Mapping) and isinstance(given.get("options"), Options):
        return given
    if not isinstance(given, Mapping):
        raise mistakes_error([Mistake((), f"got {shown(given)}, expected a mapping with the key {key}")])
    name = given.get(key)
    if not isinstance(name, str):
        got = f"got {shown(name)}," if key in given else "missing;"
        raise mistakes_error([Mistake((key,), f"{got} expected the name of a {registry.noun}: {', '.join(registry)}")])
    values = {option: value for option, value in given.items() if option != key}
    path: KeyPath = (key,)
    try:
        provider = registry.get(name)
        path = ()
        model = model_of(provider, values)
        options = validated(model, values)
    except ValidationError as error:
        raise mistakes_error(mistakes_of(error, model, values, also=(key,))) from None
    except UsageError as error:
        raise mistakes_error([Mistake(path, str(error))]) from None
    return {key: name, "options": options}


def _resolved(recipe: Recipe, base: Path) -> tuple[list[Mistake], Recipe]:
    """Return the recipe with absolute local folders, and the mistakes in what they name."""
    mistakes: list[Mistake] = []

    def resolve(path: KeyPath, reference: ModelReference | DataReference, field: str) -> dict[str, str]:
        try:
            name = _folder_or_id(getattr(reference, field), base)
        except ValueError as error:
            mistakes.append(Mistake((*path, field), str(error)))
            return {}
        if Path(name).is_absolute() and reference.model_fields_set & {"revision"} and reference.revision:
            mistakes.append(Mistake((*path, "revision"), "a local folder has no revisions; remove this key"))
        return {field: name}

    model = recipe.model.model_copy(update=resolve(("model",), recipe.model, "id"))
    data = {
        name: reference.model_copy(update=resolve(("data", name), reference, "dataset"))
        for name, reference in recipe.data.items()
    }
    return mistakes, recipe.model_copy(update={"model": model, "data": data})


def _folder_or_id(name: str, base: Path) -> str:
    """Return an absolute folder where `name` is one, else the Hub id that it is."""
    try:
        folder = base / Path(name).expanduser()
        is_folder = name != "" and folder.is_dir()
        is_file = folder.is_file()
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        msg = f"got {shown(name)}, expected a folder or the id of a Hub repository: {why}"
        raise ValueError(msg) from error
    if is_folder:
        return str(folder.resolve())
    if _LOCAL.match(name):
        msg = f"got {shown(name)}, expected a folder; {folder} {'is a file' if is_file else 'does not exist'}"
        raise ValueError(msg)
    if not _HUB_ID.fullmatch(name):
        msg = f"got {shown(name)}, expected the id of a Hub repository, as in owner/name, or a folder in {base}"
        raise ValueError(msg)
    return name
