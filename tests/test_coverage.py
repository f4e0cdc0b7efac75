"""The promise of the README's table of families; `tests/benchmarks/coverage.py` proves what stands in it."""

from pathlib import Path

from tests.benchmarks.coverage import BEGIN, END, TITLES
from tests.families import FAMILIES

README = Path(__file__).parents[1] / "README.md"


def test_every_family_has_its_row() -> None:
    """The table holds every family of the list, and the list names families of the tests."""
    table = README.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
    assert [row for row in rows if row not in {"family", "---"}] == list(TITLES.values())
    assert TITLES.keys() <= FAMILIES.keys()
