"""What is bubblewrap's alone: the host's network on request, the running Python's own packages."""

from __future__ import annotations

import socket

import pytest
from backends import ISOLATING
from scan import OpenBox

from xar_agent.sandbox import Sandbox

pytestmark = pytest.mark.parametrize("backend", ISOLATING[:1], indirect=True)
REACH = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), timeout=3)"


def test_with_network_the_host_can_be_reached_and_the_info_says_so(open_box: OpenBox) -> None:
    box = open_box(network=True)
    assert not box.info.capabilities.network_off
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert box.exec([box.info.python, "-c", REACH, str(server.getsockname()[1])]).exit_code == 0


@pytest.mark.torch
def test_torch_can_be_imported_inside(box: Sandbox) -> None:
    code = "import torch; print(torch.ones(2, 2).sum().item())"
    result = box.exec([box.info.python, "-c", code], env={"OMP_NUM_THREADS": "1"}, timeout_s=120)
    assert result.output == "4.0\n"
