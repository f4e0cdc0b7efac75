"""What a source's license says against passing on a compressed model."""

from __future__ import annotations

import re

__all__ = ["LicenseWarning", "license_warning"]

_NO_DERIVATIVES = re.compile(r"(?i)(?:^|[\W_])(?:nd|no[\W_]?derivatives?)(?:$|[\W_])")
_NOT_STATED = {"", "none", "unknown"}


class LicenseWarning(UserWarning):
    """The source of what is pushed names no license, or one that forbids derivatives to be shared."""


def license_warning(license_id: str | None, license_name: str | None = None) -> str | None:
    """Return why a compressed model may not be passed on, as far as the source's card tells; `None` where it tells not.

    Args:
        license_id: The source's license, as its card names it ("cc-by-nd-4.0").
        license_name: The name of a license that is `other`.
    """
    if license_id is None or license_id.strip().lower() in _NOT_STATED:
        return "The source's card names no license: ask its authors before you use this model or pass it on."
    for name in (license_id, license_name or ""):
        if _NO_DERIVATIVES.search(name):
            return (
                f"The source's license ({name}) forbids derivatives to be shared, and a compressed model is one: ask "
                "its authors before you pass it on."
            )
    return None
