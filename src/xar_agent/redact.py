"""Keep secrets out of logs, trajectories and records."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

MASK = "[redacted]"
SECRET_WORD = "(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)"
SECRET_NAME = re.compile(rf"(?:^|_){SECRET_WORD}_|{SECRET_WORD}S?$", re.IGNORECASE)  # also PGPASSWORD, OPENAIKEY
SECRET_SHAPE = re.compile(
    r"\b(?:sk-[A-Za-z0-9_\-]{8,}|hf_[A-Za-z0-9]{16,}|ghp_[A-Za-z0-9]{20,}|github_pat_\w{20,}|AKIA[0-9A-Z]{16}|xox[baprs]-[\w-]{10,})"
)
MIN_SECRET_CHARS = 8  # shorter values ("1", "true") would mask ordinary text


def secret_values(environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Values of environment variables whose name says that they are secret, longest first."""
    source = os.environ if environment is None else environment
    found = {v for k, v in source.items() if SECRET_NAME.search(k) and len(v) >= MIN_SECRET_CHARS}
    return tuple(sorted(found, key=len, reverse=True))


def redact(text: str, secrets: tuple[str, ...] | None = None) -> str:
    """The text with every known secret, and whatever has the shape of a provider's key, masked."""
    for value in secret_values() if secrets is None else secrets:
        text = text.replace(value, MASK)
    return SECRET_SHAPE.sub(MASK, text)


def redact_json(value: object, secrets: tuple[str, ...] | None = None) -> object:
    """The same for every string inside a JSON value, keys included."""
    known = secret_values() if secrets is None else secrets
    if isinstance(value, str):
        return redact(value, known)
    if isinstance(value, dict):
        return {redact(str(k), known): redact_json(v, known) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [redact_json(v, known) for v in value]
    return value
