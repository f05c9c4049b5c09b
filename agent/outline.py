"""The named parts of Python files: what a small model chooses from before it edits one of them."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

MAX_CALLED_NAMES = 6
MAX_SOURCE_CHARS = 110  # of a constant's line in the outline

PartKind = Literal["constant", "function", "class"]
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True, slots=True)
class Part:
    """One top-level constant, function or class."""

    path: str
    """Of the file, relative to the repository."""
    name: str
    kind: PartKind
    source: str
    """Its lines, comments at their ends included, without a final newline."""
    start_line: int
    end_line: int
    summary: str
    """One line: a constant's source, or a header, its docstring's first line and what it calls."""

    @property
    def label(self) -> str:
        """How a prompt names it."""
        return f"{self.path}:{self.name}"


def outline(path: str, text: str) -> list[Part]:
    """The parts of one file in order; empty when it is not valid Python."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return []
    lines = text.split("\n")
    return [part for node in tree.body if (part := part_of(path, node, lines)) is not None]


def outline_files(files: Mapping[str, str]) -> list[Part]:
    """The parts of every Python file, file by file."""
    return [part for path in sorted(files) if path.endswith(".py") for part in outline(path, files[path])]


def part_of(path: str, node: ast.stmt, lines: list[str]) -> Part | None:
    """The part that this statement is, or None for imports, the main guard and the like."""
    name = part_name(node)
    if name is None:
        return None
    decorators = node.decorator_list if isinstance(node, Definition) else []
    start = min([node.lineno, *(d.lineno for d in decorators)])
    end = node.end_lineno or node.lineno
    source = "\n".join(lines[start - 1 : end])
    if isinstance(node, Definition):
        kind: PartKind = "class" if isinstance(node, ast.ClassDef) else "function"
        return Part(path, name, kind, source, start, end, definition_summary(node))
    return Part(path, name, "constant", source, start, end, " ".join(source.split())[:MAX_SOURCE_CHARS])


def part_name(node: ast.stmt) -> str | None:
    """The one name that a statement binds, if it is a definition or a plain assignment."""
    if isinstance(node, Definition):
        return node.name
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
        return node.target.id
    return None


def definition_summary(node: Definition) -> str:
    """Header, first docstring line and called names in one line."""
    if isinstance(node, ast.ClassDef):
        header = f"class {node.name}"
    else:
        header = f"def {node.name}({', '.join(argument.arg for argument in node.args.args)})"
    doc = (ast.get_docstring(node) or "").split("\n")[0].strip()
    called = called_names(node)
    return header + (f": {doc}" if doc else "") + (f" [calls {', '.join(called)}]" if called else "")


def called_names(node: ast.AST) -> list[str]:
    """What it calls, each name once, in order, by its last two words (``nn.Linear``)."""
    found: dict[str, None] = {}
    for child in ast.walk(node):
        if isinstance(child, ast.Call):
            name = dotted(child.func)
            if name and not name.startswith("super") and "__init__" not in name:
                found.setdefault(".".join(name.split(".")[-2:]))
    return list(found)[:MAX_CALLED_NAMES]


def dotted(node: ast.expr) -> str:
    """``a.b.c`` as text, or "" when the expression is not a dotted name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def splice(text: str, part: Part, new_source: str) -> str:
    """The file with that part replaced."""
    lines = text.split("\n")
    return "\n".join([*lines[: part.start_line - 1], *new_source.split("\n"), *lines[part.end_line :]])


def assigned_expressions(text: str) -> dict[str, ast.expr]:
    """Top-level constant name -> the expression on its right-hand side."""
    found: dict[str, ast.expr] = {}
    for node in ast.parse(text).body:
        name = part_name(node)
        if name is not None and isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            found[name] = node.value
    return found
