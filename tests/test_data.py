"""Promises of `hfcompress.data`: rows under the names that tasks use, from what the report records."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from datasets import Audio, Dataset, load_dataset
from huggingface_hub import constants

from hfcompress.data import load_rows, rows_in
from hfcompress.errors import DataError, SpaceError
from hfcompress.hub import content_revision
from hfcompress.recipe import DataReference
from tests.checkpoints import sounds

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


def test_rows_of_a_caller() -> None:
    """A dataset that a caller made must have the columns, and rows, and leaves sounds undecoded."""
    heard = Dataset.from_dict({"audio": sounds(2), "label": [0, 1]}).cast_column("audio", Audio())
    assert rows_in(heard, "mine", ["audio"]).dataset[0]["audio"]["bytes"] == sounds(1)[0]["bytes"]
    with pytest.raises(
        DataError, match=r"^mine gives no 'text': name it so with `dataset.rename_column\(..., 'text'\)`"
    ):
        rows_in(heard, "mine", ["text"])
    with pytest.raises(DataError, match=r"^mine holds no rows$"):
        rows_in(heard.select([]), "mine")


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


def test_only_files_of_the_named_splits(hub: LoopbackHub, quickstart_folder: Path) -> None:
    """Of a dataset on the Hub no other split is downloaded, because others can be a thousand times as large."""
    hub.add_repo("acme/large", quickstart_folder / "data", repo_type="dataset")
    rows = load_rows(DataReference(dataset="acme/large", split="test[:3]+calibration[:2]"), ("image",))
    fetched = {request.path.rpartition("/")[2] for request in hub.requests if request.path.endswith(".parquet")}

    assert len(rows) == 5
    assert fetched == {"test.parquet", "calibration.parquet"}


def free_bytes() -> int:
    """Return the room on the disk of the caches."""
    return shutil.disk_usage(constants.HF_HOME).free


def test_room_is_looked_for_before_a_download(hub: LoopbackHub, quickstart_folder: Path) -> None:
    """A split that fits on no disk is not downloaded; another one of the same dataset is."""
    hub.add_repo("acme/vast", quickstart_folder / "data", repo_type="dataset")
    hub.claim_size("test.parquet", 10**15)
    match = r"too little room on the disk of .* to download and prepare the dataset acme/vast: .*TB, and .*B are free"
    with pytest.raises(SpaceError, match=match):
        load_rows(DataReference(dataset="acme/vast", split="test[:3]"), ())
    assert not [request for request in hub.requests if request.path.endswith("/test.parquet")]
    assert len(load_rows(DataReference(dataset="acme/vast", split="calibration[:3]"), ())) == 3


def test_room_is_looked_for_before_it_is_fetched_again(
    hub: LoopbackHub, quickstart_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that came damaged is not fetched again where the disk has become full meanwhile."""
    hub.add_repo("acme/again", quickstart_folder / "data", repo_type="dataset")
    hub.corrupt("/storage/datasets/acme/again/*", times=1)
    truth = shutil.disk_usage

    def filling(path: str) -> Any:  # noqa: ANN401 - a tuple that `shutil` has no name for
        """Return what is free, and nothing once the file has come."""
        usage = truth(path)
        return usage._replace(free=0) if any("/storage/" in request.path for request in hub.requests) else usage

    monkeypatch.setattr(shutil, "disk_usage", filling)
    with pytest.raises(SpaceError, match=r"to download and prepare the dataset acme/again: .*, and 0.B are free"):
        load_rows(DataReference(dataset="acme/again", split="test[:3]"), ())
    assert len([request for request in hub.requests if "/storage/" in request.path]) == 1


def test_prepared_rows_take_room_too(hub: LoopbackHub, quickstart_folder: Path) -> None:
    """A file of columns that would fit on the disk once does not fit with the rows that are made of it."""
    hub.add_repo("acme/twice", quickstart_folder / "data", repo_type="dataset")
    hub.claim_size("test.parquet", free_bytes() * 3 // 5)
    with pytest.raises(SpaceError, match="too little room"):
        load_rows(DataReference(dataset="acme/twice", split="test[:3]"), ())


def test_room_that_a_card_tells(hub: LoopbackHub, quickstart_folder: Path, tmp_path: Path) -> None:
    """What the card says of a split's rows counts, for that split alone, and not once they have been prepared."""
    folder = shutil.copytree(quickstart_folder / "data", tmp_path / "data")
    splits = "".join(
        f"  - name: {name}\n    num_bytes: {size}\n    num_examples: 3\n"
        for name, size in (("test", 10**15), ("train", 1000))
    )
    (folder / "README.md").write_text(f"---\ndataset_info:\n  splits:\n{splits}---\n", encoding="utf-8")
    sha = hub.add_repo("acme/told", folder, repo_type="dataset").oid
    test = DataReference(dataset="acme/told", split="test[:3]")
    with pytest.raises(SpaceError, match="to download and prepare the dataset acme/told"):
        load_rows(test, ())
    assert len(load_rows(DataReference(dataset="acme/told", split="train[:3]"), ())) == 3

    files = {"test": [f"hf://datasets/acme/told@{sha}/test.parquet"]}
    load_dataset("acme/told", revision=sha, data_files=files, split="test", verification_mode="no_checks")
    assert len(load_rows(test, ())) == 3


def test_sounds_that_are_too_long(tmp_path: Path) -> None:
    """Sounds longer than `max_seconds` are left out, which must leave some; rows without sounds are an error."""
    long = Dataset.from_dict({"audio": [*sounds(2, 0.5), *sounds(1, 2.0)], "text": ["a", "b", "c"]})
    long.to_parquet(tmp_path / "test.parquet")
    speech = {"dataset": str(tmp_path), "split": "test"}

    assert load_rows(DataReference(**speech, max_seconds=1), ()).dataset["text"] == ["a", "b"]
    with pytest.raises(DataError, match=r"every sound of the split lasts longer than 0\.1 s$"):
        load_rows(DataReference(**speech, max_seconds=0.1), ())
    with pytest.raises(DataError, match=r"gives no 'audio' whose seconds could be counted") as caught:
        load_rows(DataReference(**speech, columns={"text": "text"}, max_seconds=1), ())
    assert caught.value.key == ("max_seconds",)


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
