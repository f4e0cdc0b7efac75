"""Everything hfcompress raises on purpose.

::

    HfcompressError
    ├── UsageError                 what was asked for cannot be done as written   (exit code 2)
    │   ├── RecipeError            one or more mistakes in a recipe, each with its place
    │   ├── UnknownNameError       a step, task, importance or runtime nobody registered
    │   ├── MissingExtraError      an optional dependency is not installed
    │   └── OutputError            the output folder is not ours to write to
    ├── RunError                   the run failed                                 (exit code 1)
    │   ├── CheckpointError        a model folder or repository cannot be loaded
    │   ├── DataError              a dataset lacks what the recipe needs of it
    │   ├── PruningError           a tower or an axis cannot be pruned as asked
    │   ├── ProofError             a result is not what it must be, so it is thrown away
    │   ├── QuantizationError      an export or a quantization cannot be made
    │   └── HubError               the Hub refused or could not be reached
    │       ├── NotOnHubError      no such repository or revision, or not for this token
    │       └── PushError          an artifact is ready and could not be pushed
    └── GateError                  a gate of the recipe does not hold             (exit code 3)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "CheckpointError",
    "DataError",
    "GateError",
    "HfcompressError",
    "HubError",
    "MissingExtraError",
    "NotOnHubError",
    "OutputError",
    "Problem",
    "ProofError",
    "PruningError",
    "PushError",
    "QuantizationError",
    "RecipeError",
    "RunError",
    "UnknownNameError",
    "UsageError",
]


class HfcompressError(Exception):
    """Base of every error that hfcompress raises on purpose; its text is written for the user."""

    exit_code = 1

    def __reduce__(self) -> tuple[object, ...]:
        """Travel between processes with the text and whatever a subclass keeps, without its constructor."""
        return _restored, (type(self), self.args, self.__dict__)


class UsageError(HfcompressError):
    """The recipe or the command line asks for something that cannot be done as written."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One mistake in a recipe: where it stands, what was got and what was expected.

    `line` and `column` count from 1, as editors do; both are `None` where the recipe came as a Python mapping.
    """

    source: str
    key: str
    message: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        """Return `file:line:column: key: message`, the form that editors and terminals turn into links."""
        place = self.source if self.line is None else f"{self.source}:{self.line}:{self.column}"
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


class RecipeError(UsageError):
    """A recipe has mistakes; all of them are listed at once in `problems`."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in problems))


class UnknownNameError(UsageError, ValueError):
    """A name was asked of a registry that does not hold it."""


class MissingExtraError(UsageError):
    """An optional dependency is not installed; the text holds the command that installs it."""


class OutputError(UsageError):
    """The output folder exists and is not an artifact of hfcompress, so it is left alone."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"{folder} already exists and is not an artifact of hfcompress (it holds no report.json of ours). "
            f"Choose another folder with -o, or remove this one yourself."
        )


class RunError(HfcompressError):
    """The recipe is right but the run failed."""


class CheckpointError(RunError):
    """A model folder or repository cannot be loaded."""


class DataError(RunError):
    """A dataset lacks what the recipe needs of it; `key` is the path of the recipe's key below the entry of `data`."""

    def __init__(self, message: str, key: tuple[str, ...] = ()) -> None:
        self.key = key
        super().__init__(message)


class PruningError(RunError):
    """A tower or an axis cannot be pruned as asked."""


class ProofError(RunError):
    """A result differs from what it must be; nothing of it is kept."""


class QuantizationError(RunError):
    """An export or a quantization cannot be made."""


class HubError(RunError):
    """The Hub refused a call or could not be reached."""


class NotOnHubError(HubError):
    """A repository or one of its revisions does not exist, or this token may not see it; `part` says which."""

    def __init__(self, message: str, part: Literal["repository", "revision"]) -> None:
        self.part = part
        super().__init__(message)


class PushError(HubError):
    """An artifact is ready in its folder and could not be pushed."""


class GateError(HfcompressError):
    """A gate of the recipe does not hold. The artifact is kept and nothing is pushed."""

    exit_code = 3


def _restored(kind: type[HfcompressError], arguments: tuple[object, ...], kept: dict[str, object]) -> HfcompressError:
    """Return an error as another process raised it."""
    error = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(kept)
    return error
