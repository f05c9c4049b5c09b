"""Every prompt is a Jinja2 file in this folder; an undefined variable is an error."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def render(name: str, **values: Any) -> str:
    """The prompt ``prompts/<name>.md`` with these values.

    Raises:
        jinja2.UndefinedError: the file uses a variable that was not given.
        jinja2.TemplateNotFound: there is no such prompt.
    """
    import jinja2

    loader = jinja2.FileSystemLoader(HERE)
    # Prompts are plain text for a model: HTML escaping would corrupt code.
    environment = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701
    environment.keep_trailing_newline = False
    environment.trim_blocks = True
    environment.lstrip_blocks = True
    return environment.get_template(f"{name}.md").render(**values).strip() + "\n"


def digests() -> dict[str, str]:
    """Name -> sha256 of each prompt file, recorded with every run."""
    return {p.stem: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(HERE.glob("*.md"))}
