"""What is said of a source's license before its compressed form is passed on."""

from __future__ import annotations

import pytest

from hfcompress.licenses import license_warning


@pytest.mark.parametrize("license_id", [None, "", "unknown", "Unknown"])
def test_none_stated(license_id: str | None) -> None:
    """A source without a license is nobody's to pass on."""
    assert str(license_warning(license_id)).startswith("The source's card names no license")


@pytest.mark.parametrize(
    ("license_id", "license_name"),
    [
        ("cc-by-nd-4.0", None),
        ("cc-by-nc-nd-3.0", None),
        ("CC-BY-ND", None),
        ("other", "acme-no-derivatives"),
        ("other", "Acme No Derivatives"),
    ],
)
def test_no_derivatives(license_id: str, license_name: str | None) -> None:
    """A license that forbids derivatives is told by its name."""
    told = str(license_warning(license_id, license_name))
    assert f"({license_name or license_id}) forbids derivatives" in told


@pytest.mark.parametrize(
    "license_id", ["mit", "apache-2.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "bsd-3-clause-clear", "ndl"]
)
def test_nothing_to_say(license_id: str) -> None:
    """Any other license says nothing against it."""
    assert license_warning(license_id) is None
