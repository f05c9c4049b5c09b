"""search: a regular expression over the repository, the outline of a file, or the list of files."""

from __future__ import annotations

import json
import re

from xar_agent.tools.observation import Observation, cap_text, refusal
from xar_agent.tools.syntax import outline
from xar_agent.tools.workspace import Refused, Workspace

TIMEOUT_S = 20.0
MAX_SHOWN_CHARS = 8_000
MAX_HITS = 500

# Runs inside the sandbox: a pattern with catastrophic backtracking must hang there and not here.
PROGRAM = r"""
import fnmatch, json, os, re, sys
pattern, root, glob, max_hits = json.loads(sys.argv[1])
rule = re.compile(pattern)
names = []
if os.path.isfile(root):
    names = [root]
for folder, folders, files in os.walk(root):
    folders[:] = sorted(f for f in folders if f not in (".git", "__pycache__", "out"))
    names += [os.path.relpath(os.path.join(folder, f), ".") for f in sorted(files)]
hits = 0
for name in names:
    if glob and not (fnmatch.fnmatch(name, glob) or fnmatch.fnmatch(os.path.basename(name), glob)):
        continue
    try:
        if os.path.islink(name) or not os.path.isfile(name) or os.path.getsize(name) > 4 << 20:
            continue
        content = open(name, "rb").read()
    except OSError:
        continue
    if b"\0" in content:
        continue
    lines = content.decode("utf-8", "replace").splitlines()
    if not pattern:
        print(f"{name} ({len(lines)} lines)")
        hits += 1
    for number, line in enumerate(lines, 1):
        if hits >= max_hits:
            print(f"[stopped at {max_hits}]")
            sys.exit()
        if pattern and rule.search(line):
            print(f"{name}:{number}: {line.strip()[:200]}")
            hits += 1
"""


def search(
    workspace: Workspace,
    pattern: str,
    path: str = ".",
    glob: str = "",
    max_hits: int = 50,
    *,
    timeout_s: float = TIMEOUT_S,
) -> Observation:
    """Matching lines; with an empty pattern the outline of a file, or the files of a folder."""
    name = workspace.relative(path)
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return refusal("BAD_REGEX", f"{pattern!r}: {error}", "escape special characters with a backslash")
    if not pattern and not glob:
        parts = file_outline(workspace, name)
        if parts is not None:
            return parts
    request = json.dumps([pattern, name, glob, min(max(max_hits, 1), MAX_HITS)])
    argv = [workspace.bench.python, "-I", "-S", "-c", PROGRAM, request]
    result = workspace.sandbox.exec(argv, timeout_s=timeout_s, max_bytes=2 * MAX_SHOWN_CHARS)
    if result.timed_out:
        return refusal("TIMEOUT", f"no end after {timeout_s:.0f} s", "use a simpler pattern or a narrower path")
    if result.exit_code != 0:
        return refusal("NOT_FOUND", f"{name} cannot be searched", "give a folder or a file of the repository")
    found = result.output.strip()
    count = len(found.splitlines())
    return Observation(cap_text(found, MAX_SHOWN_CHARS) or "no match", summary=f"{pattern or name!r}: {count} lines")


def file_outline(workspace: Workspace, name: str) -> Observation | None:
    """The outline of a file, or None when the path is a folder or has no grammar.

    Raises:
        Refused: the file is missing or no text.
    """
    try:
        text = workspace.read_text(name)
    except Refused as refused:
        if refused.observation.error == "IS_DIR":
            return None
        raise
    parts = outline(name, text)
    if not parts:
        return None
    shown = cap_text("\n".join(parts), MAX_SHOWN_CHARS)
    return Observation(f"outline of {name}:\n{shown}", summary=f"outline of {name}")
