"""Promises of `hfcompress.data`: rows under the names that tasks use, from what the report records."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hfcompress.data import load_rows
from hfcompress.errors import DataError
from hfcompress.hub import content_revision
from hfcompress.recipe import DataReference

if TYPE_CHECKING:
    from pathlib import Path

    from hfcompress.contracts import Rows
    from tests.loopback_hub import LoopbackHub


def digits(folder: Path, needed: tuple[str, ...] = (), **changes: object) -> Rows:
    """Return rows of the quickstart's data."""
    return load_rows(DataReference(dataset=str(folder / "data"), **({"split": "test[:10]"} | changes)), needed)  # type: ignore[arg-type]


def test_columns_take_their_names(quickstart_folder: Path) -> None:
    """Mapped columns alone are there, under the names of the recipe, and the record says where they come from."""
    rows = digits(quickstart_folder, columns={"image": "image", "text": "caption"})
    assert set(rows.dataset.column_names) == {"image", "text"}
    assert (len(rows), rows.name, rows.split) == (10, "data", "test[:10]")
    assert rows.revision == content_revision(quickstart_folder / "data")


def test_batches_cover_all_rows_in_order(quickstart_folder: Path) -> None:
    """Batches are column-wise, of at most the size asked for, and leave no row out."""
    rows = digits(quickstart_folder)
    batches = list(rows.batches(4))
    assert [len(batch["label"]) for batch in batches] == [4, 4, 2]
    assert [label for batch in batches for label in batch["label"]] == list(rows.dataset["label"])


def test_no_mapping_keeps_the_columns(quickstart_folder: Path) -> None:
    """Without `columns` the dataset's own names hold."""
    assert set(digits(quickstart_folder, needed=("label",)).dataset.column_names) == {"image", "label", "caption"}


@pytest.mark.parametrize(
    ("changes", "key", "match"),
    [
        (
            {"columns": {"label": "lable"}},
            ("columns", "label"),
            r"^data has no column 'lable' \(did you mean 'label'\?\)",
        ),
        ({"split": "dev"}, ("split",), r"^data has no split 'dev'; it has: train, calibration, test$"),
        ({"split": "test[:x]"}, ("split",), r"^data: the split 'test\[:x\]' cannot be read: "),
        ({"config": "large"}, ("config",), r"^data has no configuration 'large'; it has: default$"),
        (
            {"columns": {"text": "caption"}},
            (),
            r"^data gives no 'label': map one of its columns with `columns: {label: ",
        ),
    ],
)
def test_what_is_not_there(
    changes: dict[str, object], key: tuple[str, ...], match: str, quickstart_folder: Path
) -> None:
    """What a dataset lacks is told with what it has, and with the key of the recipe that asks for it."""
    with pytest.raises(DataError, match=match) as caught:
        digits(quickstart_folder, needed=("label",), **changes)
    assert caught.value.key == key


def test_folder_without_data(tmp_path: Path) -> None:
    """A folder that is no dataset says so."""
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match=r"^data cannot be loaded: "):
        digits(tmp_path)


def test_rows_of_the_hub_have_their_commit(hub: LoopbackHub, quickstart_folder: Path) -> None:
    """A dataset of the Hub is loaded at the commit that its revision stands for."""
    commit = hub.add_repo("acme/rows", quickstart_folder / "data", repo_type="dataset")
    rows = load_rows(DataReference(dataset="acme/rows", split="test[:5]", revision="main"), ("image",))
    assert (rows.name, rows.revision, len(rows)) == ("acme/rows", commit.oid, 5)


def test_split_that_the_hub_lacks(hub: LoopbackHub, quickstart_folder: Path) -> None:
    """The splits of a dataset on the Hub are told too."""
    hub.add_repo("acme/splits", quickstart_folder / "data", repo_type="dataset")
    with pytest.raises(DataError, match=r"^acme/splits has no split 'tset' \(did you mean 'test'\?\); it has: train"):
        load_rows(DataReference(dataset="acme/splits", split="tset"), ())


@pytest.mark.parametrize(("split", "asked"), [("test[:9999]", 9999), ("test[500:600]", 100)])
def test_fewer_rows_than_asked_for(split: str, asked: int, quickstart_folder: Path) -> None:
    """A split that asks for more rows than there are is an error and not a smaller measurement."""
    with pytest.raises(DataError, match=rf"asks for {asked} rows and holds \d+; ask for fewer$") as caught:
        digits(quickstart_folder, split=split)
    assert caught.value.key == ("split",)


def test_splits_that_ask_for_no_number_of_rows(quickstart_folder: Path) -> None:
    """Percentages and slices to or from the end give the rows that there are."""
    assert [len(digits(quickstart_folder, split=f"test{part}")) for part in ("[-10:]", "[530:]", "[:10%]")] == [
        10,
        10,
        54,
    ]
