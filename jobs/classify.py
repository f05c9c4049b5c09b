"""Why a program of the candidate failed: one of the failure classes, one line, and the place in the repository."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from xar_agent.envs.spec import EnvSpec
from xar_agent.jobs.types import Failure, FailureClass
from xar_agent.redact import redact
from xar_agent.sandbox.protocol import WORKSPACE, ExecResult

LOG_BYTES = 8192
REASON_CHARACTERS = 300
FRAME = re.compile(r'^\s*File "(?P<file>[^"\n]+)", line (?P<line>\d+)', re.MULTILINE)
TORCHRUN_REPORT = re.compile(r"^[WE]\d{4} .*torch/distributed/elastic/multiprocessing/", re.MULTILINE)
"""Where the words of the programs end and those of torchrun about them begin: its own traceback tells nothing."""
AFTERWARDS = re.compile(r"^\[rank \d+\] failed afterwards: .*\n?", re.MULTILINE)
KILLED_RANK = re.compile(r"exitcode\s*: -(?P<signal>4|7|8|9|11)\b")
"""Not 15, which torchrun itself sends, and not 6, by which NCCL ends those that wait for a failed copy."""
FAILED_RANK = re.compile(r"failed \(exitcode: (?P<code>-?\d+)\) local_rank: \d+")
LAST_LINE = re.compile(r"^(?P<type>[A-Za-z_][\w.]*)(?:: (?P<message>.*))?$")

BY_EXCEPTION = {
    "SyntaxError": FailureClass.SYNTAX,
    "IndentationError": FailureClass.SYNTAX,
    "TabError": FailureClass.SYNTAX,
    "ImportError": FailureClass.IMPORT,
    "ModuleNotFoundError": FailureClass.IMPORT,
    "MemoryError": FailureClass.OOM,
    "OutOfMemoryError": FailureClass.OOM,
    "FloatingPointError": FailureClass.NAN,
}
SHAPE_WORDS = re.compile(
    r"shapes? .*(mismatch|cannot be multiplied|invalid|not aligned)|size mismatch|size of tensor|mat1 and mat2|"
    r"must match the size|"
    r"is invalid for input of size|expanded size|broadcast|dimension(s)? .*(out of range|mismatch|specified)|"
    r"expected .*(dimension|\d-?d)|zip\(\) argument|same number of dimensions|sizes of tensors must match|"
    r"stack expects",
    re.IGNORECASE,
)
MEMORY_WORDS = re.compile(
    r"out of memory|can't allocate memory|DefaultCPUAllocator|Cannot allocate memory", re.IGNORECASE
)
NAN_WORDS = re.compile(r"\b(nan|not finite|non-finite|no longer finite|infinite)\b", re.IGNORECASE)
CONFIG_WORDS = re.compile(
    r"token stream:|invalid literal for int|environment variable|unrecognized arguments|arguments are required",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Frame:
    """A place in the candidate's repository."""

    file: str
    line: int


def classify(output: str, result: ExecResult, env: EnvSpec, *, workspace: str = WORKSPACE) -> Failure:
    """Why a command failed, from how it ended and what it printed last.

    Args:
        output: what it wrote; the last traceback counts.
        result: how it ended.
        env: whose repository it is.
        workspace: where the repository lay for the command; a traceback's frame counts when its file lies there.
    """
    output, exit_code = without_torchrun(output, result.exit_code)
    frame = last_frame(output, workspace)
    kind, reason = verdict_by_end(result) or verdict_by_text(output, exit_code)
    return Failure(
        kind=kind,
        reason=redact(one_line(reason)),
        file=frame.file if frame else None,
        line=frame.line if frame else None,
        log=log_tail(output),
    )


def verdict_by_end(result: ExecResult) -> tuple[FailureClass, str] | None:
    """What the limits say; None when none of them ended it."""
    if result.stopped_by == "cpu":
        return FailureClass.TIMEOUT, f"used more CPU time than allowed: {result.cpu_s:.0f} CPU seconds"
    if result.timed_out:
        return FailureClass.TIMEOUT, f"did not end within its time limit: {result.duration_s:.0f} seconds"
    if result.oom or result.stopped_by == "memory":
        return FailureClass.OOM, "used more memory than allowed"
    if result.stopped_by == "disk":
        return FailureClass.CONFIG, "wrote more to disk than allowed"
    return None


def without_torchrun(output: str, exit_code: int) -> tuple[str, int]:
    """What the copies of a program said, and the exit code of the one that failed: 128 and the signal, as in a shell.

    A copy that was killed is the cause, also where others could say what then happened to them.
    """
    report = TORCHRUN_REPORT.search(output)
    if report is None:
        return output, exit_code
    said, reported = AFTERWARDS.sub("", output[: report.start()]), output[report.start() :]
    if killed := KILLED_RANK.search(reported):
        return said.partition("Traceback (most recent call last):")[0], 128 + int(killed["signal"])
    failed = FAILED_RANK.search(reported)
    code = int(failed["code"]) if failed else exit_code
    return said, 128 - code if code < 0 else code


def verdict_by_text(output: str, exit_code: int) -> tuple[FailureClass, str]:
    """What the last line of the last traceback says; the exit code when there is none."""
    found = exception_line(output)
    if found is None:
        if exit_code > 128:
            return FailureClass.CODE, f"ended by signal {exit_code - 128}"
        last = next((line for line in reversed(output.splitlines()) if line.strip()), "no output")
        kind = FailureClass.CONFIG if CONFIG_WORDS.search(last) else FailureClass.CODE
        return kind, f"exit code {exit_code}: {last.strip()}"
    name, message = found
    return kind_of_exception(name, message), f"{name}: {message}" if message else name


def kind_of_exception(name: str, message: str) -> FailureClass:
    """By the exception's type where that is enough, else by its words."""
    by_name = BY_EXCEPTION.get(name.rpartition(".")[2])
    if by_name:
        return by_name
    for words, kind in (
        (MEMORY_WORDS, FailureClass.OOM),
        (SHAPE_WORDS, FailureClass.SHAPE),
        (CONFIG_WORDS, FailureClass.CONFIG),
        (NAN_WORDS, FailureClass.NAN),
    ):
        if words.search(message):
            return kind
    return FailureClass.CODE


def exception_line(output: str) -> tuple[str, str] | None:
    """Type and message of the last traceback's last line: the first unindented line after its last frame."""
    frames = list(FRAME.finditer(output))
    if not frames:
        return None
    for line in output[frames[-1].end() :].splitlines()[1:]:
        if line and not line[0].isspace() and (match := LAST_LINE.match(line)):
            return match["type"], (match["message"] or "").strip()
    return None


def last_frame(output: str, workspace: str) -> Frame | None:
    """The innermost traceback frame inside the repository, its file relative to it."""
    for match in reversed(list(FRAME.finditer(output))):
        path = PurePosixPath(match["file"])
        if path.is_relative_to(workspace):
            return Frame(str(path.relative_to(workspace)), int(match["line"]))
    return None


def log_tail(output: str) -> str:
    """The end of the output that a record keeps."""
    return redact(output.encode()[-LOG_BYTES:].decode(errors="ignore"))


def one_line(text: str) -> str:
    """Bounded, on one line."""
    return " ".join(text.split())[:REASON_CHARACTERS]
