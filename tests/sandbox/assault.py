"""One attack on a sandbox, and the checks that follow every one. Also a program: for a user who has no pytest.

python assault.py BACKEND WORKSPACE [SELECTION]     prints how many held, or the first one that did not
"""

from __future__ import annotations

import os
import resource
import secrets
import shutil
import sys
import time
from pathlib import Path

from attacks import TIGHT, Attack
from attacks_by_processes import HITTING_OTHERS, OUTLIVING
from attacks_by_use import EATING_DISK, EATING_MEMORY, EATING_THE_REST
from attacks_on_the_host import NETWORK, READING, RIGHTS, WRITING
from victim import Host, no_groups_left, traces

from xar_agent.sandbox import ExecResult, Sandbox, SandboxSpec, files, open_sandbox

ON_A_MACHINE = (*READING, *WRITING, *RIGHTS, *NETWORK)
ATTACKS = (*OUTLIVING, *HITTING_OTHERS, *EATING_MEMORY, *EATING_DISK, *EATING_THE_REST, *ON_A_MACHINE)
SELECTIONS = {"all": ATTACKS, "quick": (*HITTING_OTHERS, *EATING_MEMORY, *ON_A_MACHINE)}
LATE_S = 1.0
START_S = 1.0
"""What starting a command may take on a busy machine, before its deadline begins to run."""
HONEST_S = 10.0
KEPT_BYTES = 1 << 20
OUR_GROWTH_KIB = 96 << 10


def check(box: Sandbox, attack: Attack, marker: str, host: Host) -> None:
    """Attack, look at what is left, and go on working."""
    workspace = box.spec.workspace
    plant_root_shell(workspace)
    result = assault(box, attack, marker, host)
    assert "BREACH" not in result.output, result.output
    for secret in (host.secret, os.environ.get("PLANTED_API_KEY", host.secret)):
        assert secret not in result.output
    assert result.stopped_by in attack.ends, result
    assert result.oom == (result.stopped_by == "memory"), result
    if result.stopped_by == "" and attack.exits is not None:
        assert result.exit_code == attack.exits, result
    if attack.done_within_s is not None:
        assert result.duration_s < attack.done_within_s, result
    empty(workspace)
    honest(box)
    assert no_groups_left()


def assault(box: Sandbox, attack: Attack, marker: str, host: Host) -> ExecResult:
    """Run it, then look whether its deadline held, anything of it is left, and the host is as it was."""
    argv = attack.argv(box.info.python, marker, host.address_book())
    memory_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.monotonic()
    result = box.exec(
        argv, timeout_s=attack.deadline_s, stdin=bytes(attack.stdin_bytes), max_bytes=KEPT_BYTES, env={"MARK": marker}
    )
    took_s = time.monotonic() - begun
    assert traces(marker, getattr(box, "owner", None)) == []
    assert result.duration_s < attack.deadline_s + LATE_S
    assert took_s < attack.deadline_s + LATE_S + START_S
    assert host.harm() == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_kib < OUR_GROWTH_KIB
    return result


def honest(box: Sandbox) -> None:
    """An ordinary command is right and in time."""
    begun = time.monotonic()
    code = "import sys; print(6 * 7, sys.stdin.read()); open('honest', 'w').write('done'); sys.exit(3)"
    result = box.exec([box.info.python, "-c", code], stdin=b"in", timeout_s=HONEST_S)
    assert (result.output, result.exit_code, result.stopped_by, result.survivors_killed) == ("42 in\n", 3, "", 0)
    assert time.monotonic() - begun < HONEST_S
    assert box.read("honest") == b"done"


def plant_root_shell(workspace: Path) -> None:
    """A copy of the shell that belongs to root and has its bit set, where we may make one."""
    if os.geteuid() == 0:
        shell = workspace / "rootsh"
        shutil.copy("/bin/sh", shell)
        os.chown(shell, 0, 0)
        shell.chmod(0o4755)


def empty(workspace: Path) -> None:
    """Take away what the attack left."""
    for path in workspace.iterdir():
        if path.is_dir() and not path.is_symlink():
            files.remove_tree(path)
        else:
            path.unlink()


def main(backend: str, workspace: Path, which: str = "all") -> None:
    """Every attack of a selection in turn."""
    workspace.mkdir()
    for number, attack in enumerate(SELECTIONS[which]):
        marker = f"7{secrets.randbelow(10**6):06d}.{secrets.randbelow(10**9):09d}"
        folder = workspace.parent / f"host-{number}"
        spec = SandboxSpec(workspace=workspace, limits=TIGHT)
        machine = Host(folder, folder.with_suffix(".home"), secrets.token_hex(16))
        with machine as host, open_sandbox(backend, spec) as box:
            try:
                check(box, attack, marker, host)
            except AssertionError:
                print(f"did not hold: {attack.name}", flush=True)
                raise
    print(f"{len(SELECTIONS[which])} held")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
