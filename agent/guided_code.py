"""Rewritten functions and classes in a guided edit: is the answer sound, and does it still fit its file?

No score is looked at. These checks find what a smoke test lets through: an unchanged part, a changed signature, a
value that the idea names and the code lacks, layers that are made anew at each call.
"""

from __future__ import annotations

import ast
import builtins
from dataclasses import dataclass

from xar_agent.agent.guided_values import close, literals, stated_numbers
from xar_agent.agent.outline import Definition, Part, dotted, part_name

SPELLED_NUMBERS: dict[float, tuple[str, ...]] = {
    0.0: ("zero",),
    0.5: ("sqrt", "/ 2", "half"),
    1.0: ("one",),
    2.0: ("square", "* x"),
}
"""Numbers of an idea that code may write without a digit."""
UNCHANGED = "the code is the same as before"
LAYERS = frozenset({"Linear", "Embedding", "LayerNorm", "RMSNorm", "Parameter", "Conv1d", "Conv2d", "GroupNorm"})


@dataclass(frozen=True, slots=True)
class NewCode:
    """The part's new source, or what is wrong with the answer."""

    source: str
    problem: str = ""


def read_part(part: Part, answer: str, file_text: str, idea: str) -> NewCode:
    """Take the part out of an answer and check it against the old one, its file and the idea."""
    try:
        body = ast.parse(answer).body
    except SyntaxError as error:
        line = (error.text or "").strip()
        return NewCode(answer, f"it is not valid Python: {error.msg}: `{line}`")
    named = [node for node in body if part_name(node) == part.name]
    if len(named) != 1:
        return NewCode(answer, f"the answer must define {part.name} exactly once")
    extra = [node for node in body if node is not named[0] and not stands_in(node, file_text)]
    if extra:
        first = ast.unparse(extra[0]).split("\n")[0]
        return NewCode(answer, f"put everything into {part.name}; nothing may stand outside of it: `{first}`")
    source = source_of(named[0], answer)
    old = ast.parse(part.source).body[0]
    for problem in (
        unchanged_problem(old, named[0]),
        signature_problem(old, named[0]),
        name_problem(named[0], file_text),
        lost_constant_problem(old, named[0], file_text),
        number_problem(old, source, idea),
        layer_problem(named[0]),
    ):
        if problem:
            return NewCode(source, problem)
    return NewCode(source)


def source_of(node: ast.stmt, text: str) -> str:
    """The statement's lines with its decorators and end-of-line comments."""
    decorators = node.decorator_list if isinstance(node, Definition) else []
    start = min([node.lineno, *(d.lineno for d in decorators)])
    return "\n".join(text.split("\n")[start - 1 : node.end_lineno])


def stands_in(node: ast.stmt, file_text: str) -> bool:
    """The file has this very statement at its top level already (a repeated import, a repeated constant)."""
    spelling = ast.dump(node)
    return any(ast.dump(other) == spelling for other in ast.parse(file_text).body)


def without_docstrings(node: ast.AST) -> str:
    """A spelling of the code that comments, layout and docstrings do not change."""
    copy = ast.parse(ast.unparse(node))
    for child in ast.walk(copy):
        if isinstance(child, Definition) and ast.get_docstring(child) is not None:
            child.body = child.body[1:] or [ast.Pass()]
    return ast.dump(copy)


def unchanged_problem(old: ast.stmt, new: ast.stmt) -> str:
    """An answer that computes what the old code does."""
    return UNCHANGED if without_docstrings(old) == without_docstrings(new) else ""


def signature_problem(old: ast.stmt, new: ast.stmt) -> str:
    """Callers of the old part must still work."""
    if type(old) is not type(new):
        return "it must stay what it was: a function a function, a class a class"
    if isinstance(old, ast.ClassDef) and isinstance(new, ast.ClassDef):
        methods = {n.name: n for n in new.body if isinstance(n, ast.FunctionDef)}
        for method in (n for n in old.body if isinstance(n, ast.FunctionDef)):
            if method.name not in methods:
                return f"the method {method.name} is missing"
            if arguments_of(method) != arguments_of(methods[method.name]):
                return f"keep the arguments of {method.name}: {', '.join(arguments_of(method))}"
        return ""
    if isinstance(old, ast.FunctionDef) and isinstance(new, ast.FunctionDef) and arguments_of(old) != arguments_of(new):
        return f"keep the arguments: {', '.join(arguments_of(old))}"
    return ""


def arguments_of(node: ast.FunctionDef) -> list[str]:
    """Names of its arguments, in order."""
    a = node.args
    return [arg.arg for arg in (*a.posonlyargs, *a.args, *([a.vararg] if a.vararg else []), *a.kwonlyargs)]


def name_problem(node: ast.stmt, file_text: str) -> str:
    """Names that nothing binds: they would fail at run time, perhaps only in a rare branch."""
    bound = bound_names(node) | bound_names(ast.parse(file_text), top_level_only=True) | set(dir(builtins))
    used = [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
    missing = sorted({name for name in used if name not in bound})
    return f"{', '.join(missing)} is not defined here" if missing else ""


def lost_constant_problem(old: ast.stmt, new: ast.stmt, file_text: str) -> str:
    """A constant of the file that the part no longer uses, although it calls nothing new that could replace it."""
    calls_old, calls_new = calls_in(old), calls_in(new)
    if not calls_new <= calls_old:
        return ""
    constants = {name for name in bound_names(ast.parse(file_text), top_level_only=True) if name.isupper()}
    lost = sorted(constants & (names_in(old) - names_in(new)))
    return f"{', '.join(lost)} must still be used" if lost else ""


def names_in(node: ast.AST) -> set[str]:
    """Every name that is written in it."""
    return {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}


def calls_in(node: ast.AST) -> set[str]:
    """Everything that it calls, by its dotted name."""
    return {dotted(child.func) for child in ast.walk(node) if isinstance(child, ast.Call)}


def bound_names(node: ast.AST, *, top_level_only: bool = False) -> set[str]:
    """Names that assignments, definitions, imports, arguments and loops in it bind."""
    found: set[str] = set()
    for child in ast.iter_child_nodes(node) if top_level_only else ast.walk(node):
        if isinstance(child, Definition):
            found.add(child.name)
        elif isinstance(child, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in child.names}
        elif isinstance(child, ast.arg):
            found.add(child.arg)
        elif isinstance(child, ast.ExceptHandler) and child.name:
            found.add(child.name)
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            found.add(child.id)
        elif top_level_only:
            found |= {n.id for n in ast.walk(child) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return found


def number_problem(old: ast.stmt, source: str, idea: str) -> str:
    """A value that the idea states must be in the code."""
    have = literals(ast.parse(source)) | literals(old)
    for text, meanings in stated_numbers(idea):
        spelled = any(word in source for m in meanings for word in SPELLED_NUMBERS.get(m, ()))
        if not spelled and not any(close(m, value) for m in meanings for value in have):
            return f"the idea says {text}, which the code does not have"
    return ""


def layer_problem(node: ast.stmt) -> str:
    """Layers that ``forward`` makes have new random weights at each call and are never trained."""
    for method in ast.walk(node):
        if isinstance(method, ast.FunctionDef) and method.name == "forward":
            for call in ast.walk(method):
                if isinstance(call, ast.Call) and dotted(call.func).split(".")[-1] in LAYERS:
                    return f"make {dotted(call.func)} in __init__, not in forward: here it would never be trained"
    return ""
