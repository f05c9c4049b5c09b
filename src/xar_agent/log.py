"""Logging by structlog: console lines on a terminal, JSON lines otherwise; always on stderr, always redacted."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

from xar_agent.redact import redact_json


def mask_secrets(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """structlog processor: no secret leaves through a log line."""
    masked = redact_json(dict(event))
    assert isinstance(masked, dict)
    return masked


def configure_logging(*, debug: bool = False) -> None:
    """Set the process up once: warnings and worse, or everything with ``debug``."""
    import structlog

    level = logging.DEBUG if debug else logging.WARNING
    terminal = sys.stderr.isatty()
    renderer: Any = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            mask_secrets,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def get_logger(**bound: Any) -> Any:
    """A logger with these keys on every line."""
    import structlog

    return structlog.get_logger().bind(**bound)
