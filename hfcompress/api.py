"""Every step as a function, and a way to load whatever came out."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from hfcompress.checksums import verify_folder, write_manifest
from hfcompress.contracts import Checkpoint, Progress, StepContext
from hfcompress.data import rows_in
from hfcompress.errors import UsageError
from hfcompress.extras import require_extra
from hfcompress.hub import download_all, download_weights, resolve_model
from hfcompress.licenses import LicenseWarning, license_warning
from hfcompress.publication import publish
from hfcompress.registry import STEPS, TASKS
from hfcompress.report import FILE_NAME, Report
from hfcompress.runtimes import checkpoint_at, runtime_of
from hfcompress.space import SpaceExplained
from hfcompress.staging import check_new_output

if TYPE_CHECKING:
    from datasets import Dataset

    from hfcompress.contracts import Json, Measurement
    from hfcompress.hub import Pushed

__all__ = ["apply_step", "cast", "evaluate", "load", "prune", "push", "quantize"]


def cast(
    model: str | Path,
    *,
    output: str | Path,
    revision: str = "main",
    **options: Any,  # noqa: ANN401 - validated by the step's own options
) -> dict[str, Json]:
    """Store weights in 16 bits; the options are those of `use: cast` in a recipe. See `apply_step`."""
    return apply_step("cast", model, output=output, revision=revision, **options)


def prune(
    model: str | Path,
    *,
    output: str | Path,
    calibration: Dataset | None = None,
    revision: str = "main",
    seed: int = 0,
    **options: Any,  # noqa: ANN401 - validated by the step's own options
) -> dict[str, Json]:
    """Prune a checkpoint; the options are those of `use: prune` in a recipe. See `apply_step`."""
    return apply_step("prune", model, output=output, calibration=calibration, revision=revision, seed=seed, **options)


def quantize(
    model: str | Path,
    *,
    output: str | Path,
    calibration: Dataset | None = None,
    revision: str = "main",
    seed: int = 0,
    **options: Any,  # noqa: ANN401 - validated by the step's own options
) -> dict[str, Json]:
    """Quantize a checkpoint; the options are those of `use: quantize` in a recipe. See `apply_step`."""
    return apply_step(
        "quantize", model, output=output, calibration=calibration, revision=revision, seed=seed, **options
    )


@SpaceExplained()
def apply_step(
    use: str,
    model: str | Path,
    *,
    output: str | Path,
    calibration: Dataset | None = None,
    revision: str = "main",
    seed: int = 0,
    **options: Any,  # noqa: ANN401 - validated by the step's own options
) -> dict[str, Json]:
    """Apply one registered step to a checkpoint and write the result into a new folder.

    Args:
        use: Name of the step.
        model: Hub id or folder.
        output: The folder to write; it must not exist, or be empty.
        calibration: Rows with the columns that the model reads (`image`, `text`), for steps that calibrate.
        revision: Branch, tag or commit on the Hub.
        seed: Seeds everything random.
        options: What a recipe would say beside `use`.

    Returns:
        What the step says of its work.

    Raises:
        UsageError: The options are not those of the step, or the output folder is not empty or cannot be written.
        RunError: The step failed, or a disk is full; nothing is left of the output then.
    """
    folder = Path(output)
    check_new_output(folder)
    if calibration is not None:
        options["calibration"] = "calibration"
    step_class = STEPS.get(use)
    try:
        step = step_class(step_class.options_model(options).model_validate(options))
    except ValidationError as error:
        raise _wrong_options(use, error) from error
    if step.extra is not None:
        require_extra(step.extra)
    from hfcompress.anatomy import load_config
    from hfcompress.quantized import require_float

    source = resolve_model(str(model), revision)
    require_float(load_config(source.path))
    checkpoint = Checkpoint(download_weights(source), "transformers")
    if not source.on_hub:
        verify_folder(source.path)
    rows = None if calibration is None else rows_in(calibration, "calibration")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        result = Path(scratch, "result")
        result.mkdir()
        detail = step.apply(checkpoint, result, StepContext(rows, seed))
        write_manifest(result)
        if folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            folder.rmdir()
        result.rename(folder)
    return detail


def evaluate(
    model: str | Path,
    task: str,
    dataset: Dataset,
    *,
    revision: str = "main",
    **options: Any,  # noqa: ANN401 - validated by the task's own options
) -> list[Measurement]:
    """Measure one model alone, in whichever runtime its folder is for.

    Args:
        model: Hub id or folder: a transformers checkpoint, or an ONNX or OpenVINO export.
        task: Name of a registered task ("image-text-retrieval").
        dataset: Rows with the columns that the task reads (`image`, `text`, ...).
        revision: Branch, tag or commit on the Hub.
        options: What a recipe would say beside `task` and `data`.

    Returns:
        The task's measurements; each has its value and interval under `compressed`, and no source.

    Raises:
        UsageError: There is no such task, or the options are not its own.
        RunError: The model or the rows are not what the task needs.
    """
    task_class = TASKS.get(task)
    try:
        evaluation = task_class(task_class.Options.model_validate({"data": "dataset", **options}))
    except ValidationError as error:
        raise _wrong_options(task, error) from error
    rows = rows_in(dataset, "dataset", sorted(task_class.columns))
    checkpoint = _verified(model, revision)
    loaded = runtime_of(checkpoint.format).load(checkpoint.path)
    return evaluation.measure(evaluation.predict(loaded, rows, Progress()), rows)


def _wrong_options(name: str, error: ValidationError) -> UsageError:
    lines = [f"{name}: {'.'.join(map(str, row['loc']))}: {row['msg']}" for row in error.errors()]
    return UsageError("\n".join(lines))


def _verified(model: str | Path, revision: str) -> Checkpoint:
    """Return a checkpoint whose files are those that its manifest tells of, where it has one."""
    folder = download_all(resolve_model(str(model), revision))
    verify_folder(folder)
    return checkpoint_at(folder)


def load(model: str | Path, revision: str = "main") -> Any:  # noqa: ANN401 - whatever stock class the artifact is for
    """Load an artifact with the stock class of the runtime that it is for.

    The files of a folder that hfcompress wrote are compared with the checksums that it wrote beside them.

    Args:
        model: Hub id or folder.
        revision: Branch, tag or commit on the Hub.

    Returns:
        A transformers model for a torch checkpoint, an `ORTModelFor...` for an ONNX export.

    Raises:
        HubError: The Hub refused or could not be reached.
        CheckpointError: The folder holds nothing that can be loaded, or a file has changed since it was written.
    """
    checkpoint = _verified(model, revision)
    runtime = runtime_of(checkpoint.format)
    return runtime.load(checkpoint.path).stock


def push(
    folder: str | Path,
    repo: str,
    *,
    private: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    message: str | None = None,
) -> Pushed:
    """Upload a folder that hfcompress wrote in one commit, to a repository that is made when it does not exist.

    The folder is looked through before anything is sent, as the command `hfcompress push` does. The report and the
    card of an artifact of `run` name the repository from then on; what `prune`, `quantize` and `cast` wrote has
    neither, and goes up as it is.

    Args:
        folder: The folder.
        repo: `owner/name`; the owner is the user where none is named.
        private: Whether a new repository is private.
        create_pr: Open a pull request instead of committing to the branch.
        revision: Branch to commit to; it is made when it does not exist.
        message: Message of the commit; for an artifact it names the source's commit and the recipe's hash by default.

    Returns:
        Where the folder went, and which of its files were sent.

    Raises:
        UsageError: The repository's name can be none; it is the repository that the artifact was made from, and no
            pull request is asked for; a pull request is asked for against a branch other than the main one; what
            everybody can read holds an access token; or the report and the card cannot be written.
        PushError: The Hub refused or could not be reached, or holds other bytes than were sent.
        CheckpointError: There is no such folder, its report cannot be read, it holds a symbolic link, or a file has
            changed since it was written.

    Warns:
        LicenseWarning: The source names no license, or one that forbids derivatives to be shared.
            `warnings.simplefilter("error", hfcompress.LicenseWarning)` makes that stop the push.
    """
    folder = Path(folder)
    if (folder / FILE_NAME).is_file():
        source = Report.load(folder).source
        told = license_warning(source.license, source.license_name)
        if told is not None:
            warnings.warn(told, LicenseWarning, stacklevel=2)
    return publish(folder, repo, private=private, create_pr=create_pr, revision=revision, message=message)
