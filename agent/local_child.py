"""Run the embedded model's server, or pip, in a process of its own that the kernel ends with its parent.

Stand-alone: it imports nothing of this package, so that it starts with an almost empty environment.
"""

from __future__ import annotations

import fcntl
import json
import os
import runpy
import select
import sys
from pathlib import Path
from typing import Any


def die_with_parent() -> None:
    """End this process as soon as the other end of stdin closes, whatever it is doing then.

    A thread that reads stdin would wait for the interpreter lock, which loading a model holds for seconds, and
    PR_SET_PDEATHSIG fires when the parent's *thread* ends. SIGIO, whose default is to terminate, has neither fault.
    """
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(0, 0)
    if poll.poll(0):  # only a hang-up is reported: the parent died before the lines above
        os._exit(1)


def serve() -> None:
    """Serve the model that the first line of stdin describes, until stdin closes; the address goes to stdout."""
    settings = json.loads(sys.stdin.readline())
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the library logs to both; stdout must carry one line only
    die_with_parent()
    import xllamacpp

    server = xllamacpp.Server(server_params(xllamacpp.CommonParams(), settings))
    print(json.dumps({"url": server.listening_address}), file=answer, flush=True)
    sys.stdin.read()
    os._exit(0)  # a request in flight must not keep the process alive


def server_params(params: Any, settings: dict[str, Any]) -> Any:
    """The library's parameters: loopback only, a free port, a key, one slot for each prompt family."""
    params.model.path = settings["model"]
    params.api_keys = [settings["key"]]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = settings["slots"]
    params.n_ctx = settings["slots"] * settings["context_tokens"]
    params.cpuparams.n_threads = settings["threads"]
    params.cpuparams_batch.n_threads = settings["threads"]
    params.cpuparams.poll = 0  # spinning threads starve whatever else runs on a small machine
    params.cpuparams_batch.poll = 0
    params.n_gpu_layers = 0
    params.cache_ram_mib = 0  # the slots are the cache; the default would keep 8 GiB of old prompts
    params.ui = False
    params.offline = True
    return params


def run_pip(arguments: list[str]) -> None:
    """``pip`` with these arguments: this interpreter's, else the one that the standard library carries."""
    die_with_parent()
    try:
        import pip  # noqa: F401
    except ImportError:
        import ensurepip

        sys.path[:0] = [str(path) for path in (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")]
    sys.argv = ["pip", *arguments]
    runpy.run_module("pip", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        run_pip(sys.argv[2:])
