"""Rows of a dataset, from the Hub or from a folder, under the names that tasks and steps use."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
from datasets import (
    Audio,
    Dataset,
    DatasetBuilder,
    VerificationMode,
    get_dataset_config_names,
    get_dataset_split_names,
    load_dataset,
    load_dataset_builder,
)
from huggingface_hub import constants

from hfcompress.audio import seconds
from hfcompress.contracts import Rows
from hfcompress.errors import DataError, HubError
from hfcompress.hub import absent_bytes, content_revision, described, drop_damaged, repeated, resolve_dataset
from hfcompress.registry import did_you_mean
from hfcompress.space import require_space

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hfcompress.recipe import DataReference

__all__ = ["load_rows", "rows_in"]

_TABLES = (".parquet", ".arrow")
"""Ends of the names of files that hold tables by column, as the Arrow files do that `datasets` makes of them."""


def load_rows(reference: DataReference, needed: Iterable[str]) -> Rows:
    """Load the rows that an entry of a recipe's `data` describes.

    Args:
        reference: Dataset, split and the mapping of canonical names to the dataset's columns.
        needed: Canonical columns that whoever uses the rows cannot do without.

    Raises:
        DataError: The dataset, the configuration, the split or a column does not exist, or the split is empty.
        HubError: The Hub refused or could not be reached.
        SpaceError: There is too little room for what has to be downloaded and prepared.
    """
    local = reference.is_local
    revision = (
        content_revision(Path(reference.dataset)) if local else resolve_dataset(reference.dataset, reference.revision)
    )
    dataset = _load(reference, None if local else revision)
    title = _title(reference)
    for name, column in reference.columns.items():
        if column not in dataset.column_names:
            msg = (
                f"{title} has no column {column!r}{did_you_mean(column, dataset.column_names)}; "
                f"it has: {', '.join(dataset.column_names)}"
            )
            raise DataError(msg, ("columns", name))
    dataset = _canonical(dataset, reference.columns)
    _require(dataset, title, needed, "map one of its columns with `columns: {%s: ...}`")
    if not len(dataset):
        msg = f"{title}: the split {reference.split!r} holds no rows"
        raise DataError(msg, ("split",))
    asked = _asked(reference.split)
    if asked is not None and len(dataset) < asked:
        msg = f"{title}: the split {reference.split!r} asks for {asked} rows and holds {len(dataset)}; ask for fewer"
        raise DataError(msg, ("split",))
    if reference.max_seconds is not None:
        dataset = _short(dataset, title, reference.max_seconds)
    return Rows(dataset, title, revision, reference.split, asked)


def rows_in(dataset: Dataset, name: str, needed: Iterable[str] = ()) -> Rows:
    """Return a dataset that a caller made as rows; its columns have the names that tasks and steps use.

    Args:
        dataset: The rows.
        name: What messages and measurements call them.
        needed: Columns that whoever uses the rows cannot do without.

    Raises:
        DataError: A column is missing, or there are no rows.
    """
    dataset = _canonical(dataset, {})
    _require(dataset, name, needed, "name it so with `dataset.rename_column(..., %r)`")
    if not len(dataset):
        msg = f"{name} holds no rows"
        raise DataError(msg)
    return Rows(dataset, name, dataset._fingerprint, "all")  # noqa: SLF001 - its only identity


def _require(dataset: Dataset, title: str, needed: Iterable[str], advice: str) -> None:
    for name in needed:
        if name not in dataset.column_names:
            msg = f"{title} gives no {name!r}: {advice % name}; it has: {', '.join(dataset.column_names)}"
            raise DataError(msg)


def _asked(split: str) -> int | None:
    """Return how many rows a split asks for by number ("test[:64]", "train[10:20]"), where it does."""
    slices = re.findall(r"\[(\d*):(\d+)\]", split)
    if not slices or len(slices) != split.count("["):
        return None  # whole splits, percentages and ends counted from the back ask for no number of rows
    return sum(int(end) - int(start or 0) for start, end in slices)


def _short(dataset: Dataset, title: str, max_seconds: float) -> Dataset:
    """Return the rows whose sounds last no longer than that."""
    if "audio" not in dataset.column_names:
        msg = f"{title} gives no 'audio' whose seconds could be counted; remove this key, or map a column of sounds"
        raise DataError(msg, ("max_seconds",))
    kept = [row for row, sound in enumerate(dataset["audio"]) if seconds(sound) <= max_seconds]
    if not kept:
        msg = f"{title}: every sound of the split lasts longer than {max_seconds:g} s"
        raise DataError(msg, ("max_seconds",))
    return dataset.select(kept)


def _title(reference: DataReference) -> str:
    return Path(reference.dataset).name if reference.is_local else reference.dataset


def _load(reference: DataReference, revision: str | None) -> Dataset:
    try:
        if revision is None:
            return _read(reference, None, "reuse_dataset_if_exists")
        return _verified(reference, revision)
    except ValueError as error:
        raise _explained(reference, revision, error) from error
    except (OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        msg = f"{_title(reference)} cannot be loaded: {error.__cause__ or error}"
        raise DataError(msg, ("dataset",)) from error


def _read(reference: DataReference, revision: str | None, download_mode: str) -> Dataset:
    path, config, split = reference.dataset, reference.config, reference.split
    if constants.HF_HUB_OFFLINE and not reference.is_local:
        return _kept(reference, str(revision))
    if reference.is_local or revision is None:
        return load_dataset(path, config, split=split, download_mode=download_mode)
    whole = load_dataset_builder(path, config, revision=revision, download_mode=download_mode)
    files = _files_of_splits(reference, whole)
    if files is None:
        builder, verification = whole, VerificationMode.BASIC_CHECKS
    else:
        builder = load_dataset_builder(path, config, revision=revision, data_files=files, download_mode=download_mode)
        verification = VerificationMode.NO_CHECKS  # the splits that are left out would be missed
    is_prepared = Path(builder.cache_dir, datasets.config.DATASET_INFO_FILENAME).is_file()
    if download_mode == "force_redownload" or not is_prepared:
        _require_room(reference, revision, whole, builder)
    builder.download_and_prepare(download_mode=download_mode, verification_mode=verification)
    return builder.as_dataset(split=split)


def _require_room(reference: DataReference, revision: str, whole: DatasetBuilder, builder: DatasetBuilder) -> None:
    """Make sure that there is room for what `datasets` will download and prepare of a dataset of the Hub.

    That is the data files, of the sizes that the Hub tells, without those that the client has (those that come once
    more replace them one by one); and the Arrow files made of them, of the sizes that the dataset's card tells, else of
    that of the Parquet and Arrow files that they are made of, which is the least that they take. Where the card tells
    nothing, nothing is counted for the Arrow files of other formats, nor is what archives unpack to. Where the Hub
    tells no size of a data file, nothing is checked.

    Args:
        reference: The dataset.
        revision: Its commit.
        whole: Its builder, which knows what the card says.
        builder: The builder of the splits that are wanted.

    Raises:
        SpaceError: There is not.
        HubError: The Hub refused or could not be reached.
    """
    if not builder.config.data_files:
        return  # unknown
    start = f"hf://datasets/{reference.dataset}@{revision}/"
    paths = {
        split: [str(file).removeprefix(start) for file in files] for split, files in builder.config.data_files.items()
    }
    everything = [path for split in paths.values() for path in split]
    known = described(reference.dataset, "dataset", revision)
    if not known.keys() >= set(everything):
        return
    told = whole.info.splits or {}
    prepared = 0
    for split, files in paths.items():
        said = told[split].num_bytes if split in told else 0
        prepared += said or sum(known[path].size_bytes for path in files if path.endswith(_TABLES))
    download = absent_bytes(reference.dataset, "dataset", revision, everything)
    require_space(
        {Path(constants.HF_HUB_CACHE): download, Path(builder.cache_dir): prepared},
        f"download and prepare the dataset {reference.dataset}",
    )


def _kept(reference: DataReference, revision: str) -> Dataset:
    """Read what was made of a dataset's splits when they were read from the Hub.

    `datasets` does not find itself what it made of some splits alone, so its files are read as they are.

    Raises:
        HubError: These splits were not read at this commit, or are gone.
    """
    folder = Path(datasets.config.HF_DATASETS_CACHE, reference.dataset.replace("/", "___"))
    names = _splits_of(reference)
    for kept in sorted(folder.glob(f"{reference.config or 'default'}-*/*/{revision}")):
        files = {
            name: [str(file) for file in sorted(kept.iterdir()) if _is_of_split(file.name, name)] for name in names
        }
        if all(files.values()):
            return load_dataset("arrow", data_files=files, split=reference.split)
    msg = (
        f"the split {reference.split!r} of the dataset {reference.dataset} is not in the cache at {revision} and "
        "offline mode is on; unset HF_HUB_OFFLINE, or run once without it"
    )
    raise HubError(msg)


def _verified(reference: DataReference, revision: str) -> Dataset:
    """Read a dataset of the Hub; what came with other bytes than the Hub has is fetched once more."""

    def read(download_mode: str) -> Dataset:
        return repeated(lambda: _read(reference, revision, download_mode))

    try:
        dataset = read("reuse_dataset_if_exists")
    except (ValueError, OSError, datasets.exceptions.DatasetsError):
        if not drop_damaged(reference.dataset, revision):
            raise
    else:
        if not drop_damaged(reference.dataset, revision):
            return dataset
    dataset = read("force_redownload")
    if damaged := drop_damaged(reference.dataset, revision):
        msg = (
            f"{damaged[0]} of the dataset {reference.dataset} came twice with other bytes than the Hub has, so it was "
            "removed from the cache; check the network and HF_ENDPOINT, then try again"
        )
        raise HubError(msg)
    return dataset


def _files_of_splits(reference: DataReference, whole: DatasetBuilder) -> dict[str, list[str]] | None:
    """Return the files of the splits that a reference names, so that others are not downloaded, where one can tell."""
    known = whole.config.data_files
    names = _splits_of(reference)
    if not known or not names <= known.keys():
        return None  # as of the split "all", and of those that do not exist
    return {name: [str(file) for file in known[name]] for name in sorted(names)}


def _splits_of(reference: DataReference) -> set[str]:
    return {part.split("[")[0].strip() for part in reference.split.split("+")}


def _is_of_split(file: str, split: str) -> bool:
    """Whether `datasets` gave a file that it wrote this name for a split, or for a part of it."""
    return re.fullmatch(rf".+-{re.escape(split)}(?:-\d+-of-\d+)?\.arrow", file) is not None


def _explained(reference: DataReference, revision: str | None, error: ValueError) -> DataError:
    """Say which configuration or split does not exist and which ones do."""
    title = _title(reference)
    try:
        configs = get_dataset_config_names(reference.dataset, revision=revision)
        config = reference.config or (configs[0] if configs else None)
        if config not in configs:
            nearest = did_you_mean(str(config), configs)
            return DataError(
                f"{title} has no configuration {config!r}{nearest}; it has: {', '.join(configs)}", ("config",)
            )
        splits = get_dataset_split_names(reference.dataset, config, revision=revision)
    except (ValueError, OSError, datasets.exceptions.DatasetsError):
        return DataError(f"{title} cannot be loaded: {error}", ("dataset",))
    name = reference.split.split("[")[0]
    if name in splits:
        return DataError(f"{title}: the split {reference.split!r} cannot be read: {error}", ("split",))
    return DataError(
        f"{title} has no split {name!r}{did_you_mean(name, splits)}; it has: {', '.join(splits)}", ("split",)
    )


def _canonical(dataset: Dataset, columns: dict[str, str]) -> Dataset:
    """Rename the mapped columns and leave audio undecoded, so that no codec library is needed to list it."""
    if columns:
        dataset = dataset.select_columns(sorted(set(columns.values())))
        dataset = dataset.rename_columns({column: name for name, column in columns.items() if column != name})
    for name, feature in dataset.features.items():
        if isinstance(feature, Audio):
            dataset = dataset.cast_column(name, Audio(sampling_rate=feature.sampling_rate, decode=False))
    return dataset
