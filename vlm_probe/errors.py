"""The one base class of errors a user can cause, and of warnings."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class VlmProbeError(Exception):
    """Says what was received, what was expected and what would work.

    The command line prints its message on one line and exits with code 2.
    """


class VlmProbeWarning(UserWarning):
    """Says what was done and should not be trusted; the command line prints it on one line."""


def first_line(error: BaseException) -> str:
    """What another library's exception says, on one line that can be read: its first, cut at 200 characters."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    said = lines[0] if lines else ""
    if said.endswith(":") and len(lines) > 1:  # "Error(s) in loading state_dict for ...:"
        said = f"{said} {lines[1]}"
    if isinstance(error, KeyError) or not said:
        said = f"{type(error).__name__} {said}".strip()
    return said if len(said) <= 200 else f"{said[:200]} ..."


def nearest(name: str, known: Iterable[str], n: int = 3) -> str:
    """The known names closest to a mistyped one, ready for a message."""
    names = list(known)
    close = get_close_matches(name, names, n=n, cutoff=0.5)
    return ", ".join(repr(c) for c in close or names[:n])
