"""One line of `semtok doctor`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What a check found, and the command that helps."""

    state: str  # ok | warn | FAIL
    subject: str
    text: str
    fix: str = ""


def human_size(count: float) -> str:
    """Bytes in MB or GB."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
