"""What has to be there before anything runs."""

from __future__ import annotations

import pytest

from xar_agent.cli.prepare import reach
from xar_agent.errors import ModelUnavailable


def test_a_server_behind_a_proxy_is_not_knocked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "localhost")
    reach("http://127.0.0.1:9/v1")
    with pytest.raises(ModelUnavailable, match="no server answers"):
        reach("http://localhost:9/v1")
