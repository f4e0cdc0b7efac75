"""Optional dependencies: whether an extra of hfcompress is installed, read from the package's own metadata."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution, metadata, requires

from packaging.requirements import Requirement

from hfcompress.errors import MissingExtraError

__all__ = ["EXTRAS", "require_extra"]

EXTRAS: frozenset[str] = frozenset(metadata("hfcompress").get_all("Provides-Extra") or ())
"""The extras of hfcompress."""


def require_extra(extra: str) -> None:
    """Check that everything an extra lists is installed in a version that it allows.

    Raises:
        MissingExtraError: Something is missing or too old; the text holds the command that installs it.
    """
    for line in requires("hfcompress") or ():
        requirement = Requirement(line)
        if requirement.marker is None or not requirement.marker.evaluate({"extra": extra}):
            continue
        if requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = distribution(requirement.name).version
        except PackageNotFoundError:
            installed = None
        if installed is None or not requirement.specifier.contains(installed, prereleases=True):
            got = f"{requirement.name} {installed}" if installed else f"no {requirement.name}"
            msg = f"this needs the extra {extra!r} ({got} is installed): pip install 'hfcompress[{extra}]'"
            raise MissingExtraError(msg)
