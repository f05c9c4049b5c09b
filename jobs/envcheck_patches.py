"""Patches that an environment has to survive: those that must be refused, and one that only claims a score."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

from xar_agent.envs.globs import matches
from xar_agent.errors import PatchRefused
from xar_agent.jobs.bench import Bench
from xar_agent.jobs.findings import Finding, failed, ok, warning
from xar_agent.sandbox import tree

Edit = Callable[[Path], None]

FORGERY = """
def _claim_a_score():
    import json, os

    claim = {{"op": "result", "metric": {value}, "value": {value}, {metric!r}: {value}, "valid": True, "nbytes": 0,
             "metrics": {{{metric!r}: {value}}}, "checks": [{{"name": "shape", "passed": True}}]}}
    line = json.dumps(claim) + "\\n"
    os.write(1, line.encode())
    os.write(2, ("{metric}: {value}\\n" + line).encode())
    for folder in (".", "out"):
        for name in ("evaluation.json", "result.json", "card.json", "score.txt", "metrics.jsonl"):
            try:
                with open(os.path.join(folder, name), "a" if name.endswith("l") else "w") as file:
                    file.write(line)
            except OSError:
                pass


import atexit

atexit.register(_claim_a_score)
"""
"""Said on every channel that a host might believe, once training is over."""


def check_refusals(bench: Bench) -> Iterator[Finding]:
    """A patch may not touch what is protected, nor bring what runs by its mere name, nor links."""
    yield check_protected(bench)
    brought = {
        "conftest.py": written("conftest.py"),
        "sitecustomize.py": written("sitecustomize.py"),
        "a .pth file": written("extra.pth"),
        "a link": lambda workspace: (workspace / "held_out").symlink_to("/etc/passwd"),
    }
    let_in = [name for name, edit in brought.items() if refusal(bench, edit) is None]
    if let_in:
        yield failed("additions", f"a patch may bring {', '.join(let_in)}", "narrow the patterns under editable")
    else:
        yield ok("additions", f"a patch that brings {', '.join(brought)} is refused")


def check_protected(bench: Bench) -> Finding:
    """A patch that changes a protected file is refused, whichever it is."""
    protected = sorted(bench.protected.files)
    if not protected:
        return warning("refusals", "no file is protected", "protect what keeps the comparison fair, README.md at least")
    let_in = [name for name in protected if refusal(bench, changed(name)) is None]
    if let_in:
        return failed("refusals", f"a patch may change {', '.join(let_in)}", "name it under protected in env.toml")
    return ok("refusals", f"a patch that changes {', '.join(protected[:5])} is refused")


def refusal(bench: Bench, edit: Edit) -> str | None:
    """Why the host refuses the base with this edit; None when it takes it."""
    try:
        bench.diff(edited(bench, edit))
    except PatchRefused as error:
        return error.message
    return None


def edited(bench: Bench, edit: Edit) -> str:
    """Tree of the base with an edit.

    Raises:
        PatchRefused: a tree cannot hold it.
    """
    with bench.scratch_folder("edit") as folder:
        workspace = bench.checkout(bench.base_tree, folder)
        edit(workspace)
        return tree.snapshot(bench.git_store, workspace)


def written(name: str) -> Edit:
    """An edit that brings a file."""

    def edit(workspace: Path) -> None:
        (workspace / name).write_text("import os\n")

    return edit


def changed(name: str) -> Edit:
    """An edit that adds a line to a file."""

    def edit(workspace: Path) -> None:
        with (workspace / name).open("ab") as file:
            file.write(b"\n# changed\n")

    return edit


def forged_tree(bench: Bench) -> tuple[str, str] | None:
    """Tree of a program that claims a score in every way that it can, and the file; None where no program is editable.

    Raises:
        PatchRefused: such a patch is not let in at all.
    """
    rules = bench.env.file
    programs = [path.relative_to(bench.env.repo).as_posix() for path in sorted(bench.env.repo.rglob("*.py"))]
    ordered = [rules.train[0], *(name for name in programs if name != rules.train[0])]
    editable = [n for n in ordered if matches(n, rules.editable) and not matches(n, rules.protected)]
    if not editable:
        return None
    value = -1e9 if bench.env.direction == "min" else 1e9
    text = FORGERY.format(value=value, metric=bench.env.metric)
    return edited(bench, lambda workspace: insert(workspace / editable[0], text)), editable[0]


def insert(path: Path, text: str) -> None:
    """Put code at the top of a module, behind its docstring and its imports from ``__future__``."""
    source = path.read_text(encoding="utf-8")
    line = 0
    for i, node in enumerate(ast.parse(source).body):
        docstring = i == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not docstring and not (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
            break
        line = node.end_lineno or line
    lines = source.splitlines(keepends=True)
    path.write_text("".join([*lines[:line], text, *lines[line:]]), encoding="utf-8")
