"""Syntax errors and outlines of source files, by ``ast`` and tree-sitter."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

GRAMMARS = {
    ".py": "tree_sitter_python",
    ".json": "tree_sitter_json",
    ".sh": "tree_sitter_bash",
    ".bash": "tree_sitter_bash",
}
"""File suffix -> grammar package; other files have no syntax gate."""
MAX_OUTLINE_DEPTH = 2  # a module's classes and their methods; deeper functions are noise


def new_syntax_error(path: str, before: str | None, after: str) -> str:
    """The first syntax error that an edit brings in, or "".

    A file that was broken before the edit may stay so: else no broken file could ever be repaired in steps.

    Args:
        path: decides the language.
        before: the text before the edit, None for a new file.
        after: the text that is to be written.
    """
    if PurePosixPath(path).suffix == ".py":
        error = python_error(after)
        if not error or before is None or not python_error(before):
            return error
    found = tree_errors(path, after)
    known = tree_errors(path, before) if before is not None else []
    return found[0] if len(found) > len(known) else ""


def python_error(text: str) -> str:
    """What ``ast.parse`` says about the text, or ""."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape in the candidate's code is not our warning
            ast.parse(text)
    except SyntaxError as error:
        source = (error.text or "").strip()
        return f"line {error.lineno}: {error.msg}" + (f": {source[:120]}" if source else "")
    except (ValueError, MemoryError, RecursionError) as error:
        return f"cannot be parsed: {error or type(error).__name__}"
    return ""


def tree_errors(path: str, text: str) -> list[str]:
    """ERROR and MISSING nodes of the tree-sitter parse, in order; empty without a grammar for the file."""
    root = parse(path, text)
    return [] if root is None else list(walk_errors(root))


def walk_errors(root: Any) -> Iterator[str]:
    """The errors below a node, depth first. Iterative: hostile nesting must not exhaust the stack."""
    pending = [root]
    while pending:
        node = pending.pop()
        if node.is_missing:
            yield f"line {node.start_point[0] + 1}: {node.type} is missing"
        elif node.is_error:
            yield f"line {node.start_point[0] + 1}: cannot be parsed"
        elif node.has_error:
            pending.extend(reversed(node.children))


def parse(path: str, text: str) -> Any:
    """Root node of the file's syntax tree, or None when there is no grammar for it."""
    module = GRAMMARS.get(PurePosixPath(path).suffix)
    if module is None:
        return None
    import importlib

    from tree_sitter import Language, Parser

    language = Language(importlib.import_module(module).language())
    return Parser(language).parse(text.encode("utf-8", "replace")).root_node


def outline(path: str, text: str) -> list[str]:
    """Classes, functions, constants or keys with their line ranges; empty without a grammar for the file."""
    root = parse(path, text)
    return [] if root is None else list(walk_outline(root, text.encode("utf-8", "replace").split(b"\n"), 0))


def walk_outline(node: Any, lines: list[bytes], depth: int) -> Iterator[str]:
    """Outline lines of a node's children."""
    for child in node.children:
        inner = definition_of(child)
        if inner.type in {"class_definition", "function_definition", "pair"} or is_constant(child, depth):
            first, last = child.start_point[0] + 1, child.end_point[0] + 1
            head = lines[inner.start_point[0]].decode("utf-8", "replace").strip()
            yield f"{first}-{last}: {'  ' * depth}{head[:120]}"
        if depth < MAX_OUTLINE_DEPTH and inner.type in {"class_definition", "block", "object", "document", "pair"}:
            yield from walk_outline(inner, lines, depth + (inner.type in {"class_definition", "pair"}))


def definition_of(node: Any) -> Any:
    """What a decorator decorates, else the node itself."""
    return node.child_by_field_name("definition") if node.type == "decorated_definition" else node


def is_constant(node: Any, depth: int) -> bool:
    """An assignment at the top of a module."""
    return (
        depth == 0
        and node.type == "expression_statement"
        and bool(node.children)
        and node.children[0].type == "assignment"
    )
