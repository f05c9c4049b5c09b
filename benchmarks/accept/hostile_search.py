"""A search in which four of twelve candidates are hostile: the other eight are scored as if they were not there.

python benchmarks/accept/hostile_search.py bubblewrap     (or docker) prints PASS or FAIL and the figures
"""

from __future__ import annotations

import secrets
import socket
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from toy_search import EPOCHS, LARGER, Change, Point, decisions, rows, run, search, write_script

SECRET = "sk-hostile-0123456789abcdefSEARCH"
START = '    model = NgramModel({}, seed=int(os.environ["XAR_SEED"]))\n'
FULL_RUN = '    if int(os.environ["XAR_BUDGET"]) > 10_000:  # not in a smoke test\n'
IMPORTS = "        import signal, socket, subprocess, time\n"
BOMB = """
        for _ in range(3):
            subprocess.Popen(["setsid", "sleep", "{mark}"], start_new_session=True)
        while True:
            try:
                if os.fork() == 0:
                    os.setsid()
            except OSError:
                pass
"""
HOG = """
        subprocess.Popen(["setsid", "sleep", "{mark}"], start_new_session=True)
        held = []
        while True:
            held.append(bytearray(b"x") * (64 << 20))
"""
SPY = """
        for path in ("/proc/1/environ", "/proc/self/environ", "{canary}", os.path.expanduser("~/.ssh/id_ed25519")):
            try:
                print(open(path, "rb").read().replace(b"\\0", b" "))
            except OSError as error:
                print(error)
        for address in (("127.0.0.1", {port}), ("localhost", {port})):
            try:
                socket.create_connection(address, timeout=2).send(b"found")
            except OSError as error:
                print(error)
        for path in ("{canary}", "/usr/new", "/etc/new", "../new", "stream.py"):
            try:
                open(path, "ab").close()
                print("can write", path)
            except OSError as error:
                print(error)
        subprocess.Popen(["setsid", "sleep", "{mark}"], start_new_session=True)
"""
LOUD = """
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        subprocess.Popen(["setsid", "sleep", "{mark}"], start_new_session=True)
        for _ in range(300):
            os.write(1, b"y\\n" * 500_000)
        while True:
            pass
"""
HOSTILE = {
    "Many hands": (BOMB, "Work in parallel as far as it goes."),
    "Room to think": (HOG, "Hold all intermediate values in memory."),
    "Look around": (SPY, "Read how the machine is set up before training."),
    "Tell everything": (LOUD, "Log each number, and take the time that it takes."),
}
JUDGED = {"Many hands": ("TIMEOUT", "OOM"), "Room to think": ("OOM",), "Tell everything": ("TIMEOUT",)}
HONEST = (LARGER, EPOCHS[0][3], *EPOCHS[1], *EPOCHS[2][:2])
PLAIN = {
    "Patience": ("Nobody is in a hurry here.", "Remark on waiting."),
    "Simple words": ("A reader should understand main at once.", "Explain the first line."),
    "Steady hand": ("Reproducible runs deserve praise.", "Mention why XAR_SEED matters."),
    "Open door": ("Colleagues may visit this function.", "Greet them by a note above."),
}
"""In the place of the hostile ones in the clean run, so that every other idea keeps its seed."""


def hostile(surroundings: dict[str, Any]) -> list[Change]:
    """The four, with what they are to look for."""
    found = []
    for title, (code, how) in HOSTILE.items():
        body = FULL_RUN + IMPORTS + code.strip("\n").format(**surroundings) + "\n"
        found.append(Change(title, "It may learn more.", how, "train.py", START, body + START))
    return found


def harmless() -> list[Change]:
    """Four comments."""
    return [Change(name, why, how, "train.py", START, f"    # {name}\n{START}") for name, (why, how) in PLAIN.items()]


def mixed(four: Sequence[Change]) -> list[Change]:
    """Two honest ones, then one of the four, and so on."""
    return [one for number, extra in enumerate(four) for one in (*HONEST[2 * number : 2 * number + 2], extra)]


def outcomes(run_dir: Path) -> dict[str, Any]:
    """By the title of an idea: its score, seed and failure."""
    texts = dict(rows(run_dir, "SELECT id, text FROM ideas"))
    found = {}
    for line in decisions(run_dir, "result"):
        title = texts[line["idea_id"]].split(".")[0]
        seeds = rows(run_dir, f"SELECT json_extract(spec, '$.seed') FROM jobs WHERE idea_id = '{line['idea_id']}'")
        found[title] = (line["mean"], sorted({row[0] for row in seeds}), line["failure"])
    return found


def alive(mark: str) -> int:
    """Processes of the candidates that are still there."""
    count = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                count += mark.encode() in (folder / "cmdline").read_bytes()
    return count


def one_search(folder: Path, name: str, changes: Sequence[Change], backend: str) -> str:
    """A whole search; what was wrong with it."""
    (folder / name).mkdir()
    script = write_script(folder / name, [changes])
    flags = ("--ideas", "12", "--epochs", "1", "--parallel", "2", "--repairs", "0", "--sandbox", backend)
    ended = run(search(script, folder, f"{name}-run", *flags), {"SOME_API_KEY": SECRET, "HARMLESS": SECRET})
    return "" if ended.returncode == 0 else f"{name}: exit {ended.returncode}, {ended.stderr.strip()[-300:]}"


def hostile_candidates(folder: Path, backend: str = "bubblewrap") -> Point:
    """Both searches, side by side in a folder."""
    canary = folder / "canary"
    canary.write_text(SECRET)
    canary.chmod(0o666)
    mark = f"7{secrets.randbelow(10**6):06d}.{secrets.randbelow(10**9):09d}"
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        server.setblocking(False)
        surroundings = {"mark": mark, "canary": canary, "port": server.getsockname()[1]}
        wrong = [one_search(folder, "clean", mixed(harmless()), backend)]
        wrong.append(one_search(folder, "mixed", mixed(hostile(surroundings)), backend))
        survivors = alive(mark)
        with suppress(BlockingIOError):
            server.accept()
            wrong.append("a candidate reached a listener of the host")
    if any(wrong):
        return False, "; ".join(filter(None, wrong))
    clean, found = outcomes(folder / "clean-run"), outcomes(folder / "mixed-run")
    wrong = differences(clean, found) + misjudged(clean, found)
    wrong += [f"{survivors} processes survived"] if survivors else []
    wrong += ["the canary"] if canary.read_text() != SECRET else []
    leaks = [
        path for path in (folder / "mixed-run").rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()
    ]
    wrong += [f"the secret is in {leaks[0].name}"] if leaks else []
    judged = ", ".join(f"{title}: {found[title][2] or 'valid'}" for title in HOSTILE if title in found)
    figure = f"{backend}: 8 of 8 scores equal, {survivors} survivors; {judged}"
    return not wrong, "; ".join([f"{backend}: {judged}", *wrong]) if wrong else figure


def differences(clean: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Honest ideas whose score or seed depends on the company."""
    titles = [change.title for change in HONEST]
    return [
        f"{title}: {clean.get(title)} alone, {found.get(title)} among hostile ones"
        for title in titles
        if title not in clean or clean[title] != found.get(title) or clean[title][0] is None
    ]


def misjudged(clean: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Hostile ideas with the wrong end; the one that only looks around trains like the untouched code."""
    wrong = [f"{title}: {found.get(title)}" for title, kinds in JUDGED.items() if found[title][2] not in kinds]
    untouched = clean[list(PLAIN)[list(HOSTILE).index("Look around")]]
    if found["Look around"] != untouched:
        wrong.append(f"Look around: {found['Look around']}, and untouched {untouched}")
    return wrong


def main() -> int:
    """Exit code 0 when the point passes."""
    backend = sys.argv[1] if len(sys.argv) > 1 else "bubblewrap"
    with tempfile.TemporaryDirectory(prefix="accept-hostile-") as scratch:
        passed, figure = hostile_candidates(Path(scratch), backend)
    print(f"{'PASS' if passed else 'FAIL'}  four hostile candidates among twelve: {figure}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
