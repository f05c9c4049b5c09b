"""The seven tools as smolagents tools, the form in which models are told of them, and the check of what models send.

Importing this module imports smolagents (0.3 CPU-s): never on the way to ``--help``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from smolagents import Tool

from xar_agent.tools import bash, files, search, submit
from xar_agent.tools.observation import Observation, refusal
from xar_agent.tools.workspace import Refused, Workspace

Inputs = dict[str, dict[str, Any]]
MAX_ARGUMENT_BYTES = 100_000
"""Linux refuses a single argument of a program above 128 KiB."""
PASSED_ON_WHOLE = frozenset({"content", "old_str", "new_str"})
"""Arguments that no program gets on its command line; the tools have limits of their own for them."""
MAX_NUMBER = 2**31 - 1


def text(description: str, **more: Any) -> dict[str, Any]:
    """A string argument."""
    return {"type": "string", "description": description, **more}


def whole(description: str, default: int) -> dict[str, Any]:
    """An optional integer argument."""
    return {"type": "integer", "description": description, "nullable": True, "default": default}


class WorkspaceTool(Tool):  # type: ignore[misc]
    """A tool over one workspace. ``observe`` is what the loop calls; ``forward`` is the same for other agents."""

    name = "workspace_tool"
    description = "Base of the tools; not offered to a model."
    inputs: ClassVar[Inputs] = {}
    output_type = "string"
    act: ClassVar[Callable[..., Observation]]

    def __init__(self, workspace: Workspace | None) -> None:
        """None makes a tool that can be described but not used, for a replay."""
        super().__init__()
        self.workspace = workspace

    def observe(self, **arguments: Any) -> Observation:
        """Do it. An expected failure is an observation.

        Raises:
            SandboxError: the sandbox failed, not the command in it.
        """
        try:
            return type(self).act(self.workspace, **arguments)
        except Refused as refused:
            return refused.observation


class BashTool(WorkspaceTool):
    """bash"""

    name = "bash"
    description = (
        "Run a shell command in the repository's folder, without network or data. Long output is cut in the middle."
    )
    inputs: ClassVar[Inputs] = {
        "command": text("the command"),
        "timeout_s": whole("seconds until it is stopped", 120),
        "cwd": text("folder relative to the repository", nullable=True, default=""),
    }
    act = staticmethod(bash.run_bash)

    def forward(self, command: str, timeout_s: int = 120, cwd: str = "") -> str:
        """The text of the observation."""
        return self.observe(command=command, timeout_s=timeout_s, cwd=cwd).text


class ReadFileTool(WorkspaceTool):
    """read_file"""

    name = "read_file"
    description = "Show lines of a text file."
    inputs: ClassVar[Inputs] = {
        "path": text("file relative to the repository"),
        "start_line": whole("first line, counted from 1", 1),
        "max_lines": whole("how many lines", 400),
    }
    act = staticmethod(files.read_file)

    def forward(self, path: str, start_line: int = 1, max_lines: int = 400) -> str:
        """The text of the observation."""
        return self.observe(path=path, start_line=start_line, max_lines=max_lines).text


class EditFileTool(WorkspaceTool):
    """edit_file"""

    name = "edit_file"
    description = (
        "Replace old_str by new_str in a file. old_str must occur exactly once (or set replace_all): copy it from the "
        "file, with lines around it if needed. An edit that breaks the file's syntax is not made."
    )
    inputs: ClassVar[Inputs] = {
        "path": text("file relative to the repository"),
        "old_str": text("the text to replace, as it stands in the file"),
        "new_str": text("what stands there afterwards"),
        "replace_all": {
            "type": "boolean",
            "description": "replace every occurrence",
            "nullable": True,
            "default": False,
        },
    }
    act = staticmethod(files.edit_file)

    def forward(self, path: str, old_str: str, new_str: str, replace_all: bool = False) -> str:
        """The text of the observation."""
        return self.observe(path=path, old_str=old_str, new_str=new_str, replace_all=replace_all).text


class WriteFileTool(WorkspaceTool):
    """write_file"""

    name = "write_file"
    description = "Write a whole file. Prefer edit_file for a file that exists."
    inputs: ClassVar[Inputs] = {"path": text("file relative to the repository"), "content": text("the whole content")}
    act = staticmethod(files.write_file)

    def forward(self, path: str, content: str) -> str:
        """The text of the observation."""
        return self.observe(path=path, content=content).text


class SearchTool(WorkspaceTool):
    """search"""

    name = "search"
    description = (
        "Find lines by a Python regular expression. With an empty pattern: the outline of a file, or a folder's files."
    )
    inputs: ClassVar[Inputs] = {
        "pattern": text("regular expression, or an empty string"),
        "path": text("file or folder", nullable=True, default="."),
        "glob": text("only files whose name fits, such as *.py", nullable=True, default=""),
        "max_hits": whole("stop after so many lines", 50),
    }
    act = staticmethod(search.search)

    def forward(self, pattern: str, path: str = ".", glob: str = "", max_hits: int = 50) -> str:
        """The text of the observation."""
        return self.observe(pattern=pattern, path=path, glob=glob, max_hits=max_hits).text


class SmokeTestTool(WorkspaceTool):
    """smoke_test"""

    name = "smoke_test"
    description = (
        "Train a few steps in a fresh sandbox and load the checkpoint through the contract. "
        "Says passed, or the class of the failure with its place in the repository."
    )
    act = staticmethod(submit.smoke_test)

    def forward(self) -> str:
        """The text of the observation."""
        return self.observe().text


class SubmitRunTool(WorkspaceTool):
    """submit_run"""

    name = "submit_run"
    description = (
        "Hand in the repository for the full training run. The last smoke test must have passed on these very files."
    )
    inputs: ClassVar[Inputs] = {"message": text("one line: what was changed")}
    act = staticmethod(submit.submit_run)

    def forward(self, message: str) -> str:
        """The text of the observation."""
        return self.observe(message=message).text


TOOLS: tuple[type[WorkspaceTool], ...] = (
    BashTool,
    ReadFileTool,
    EditFileTool,
    WriteFileTool,
    SearchTool,
    SmokeTestTool,
    SubmitRunTool,
)


def make_tools(workspace: Workspace | None, *, submits: bool = True) -> list[WorkspaceTool]:
    """All tools of an episode; without ``submit_run`` where nothing is submitted."""
    return [kind(workspace) for kind in TOOLS if submits or kind is not SubmitRunTool]


def tool_schema(tool: Tool) -> dict[str, Any]:
    """The tool as an entry of the chat API's ``tools``."""
    inputs: Inputs = tool.inputs
    properties = {name: {k: v for k, v in spec.items() if k != "nullable"} for name, spec in inputs.items()}
    required = [name for name, spec in inputs.items() if not spec.get("nullable")]
    parameters = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }


def check_call(tools: Sequence[Tool], name: str, raw: str) -> tuple[dict[str, Any], Observation | None]:
    """The arguments of a call, or the refusal that the model gets instead of a result. Nothing has run yet."""
    tool = next((t for t in tools if t.name == name), None)
    if tool is None:
        known = ", ".join(t.name for t in tools)
        return {}, refusal("UNKNOWN_TOOL", f"there is no tool {name!r}", f"tools: {known}")
    try:
        given = json.loads(raw) if raw.strip() else {}
    except (ValueError, RecursionError) as error:
        return {}, refusal(
            "FORMAT", f"the arguments of {name} are not JSON: {error}", "send the call again as one JSON object"
        )
    if not isinstance(given, dict):
        return {}, refusal(
            "FORMAT", f"the arguments of {name} are not a JSON object", "send an object of named arguments"
        )
    return check_arguments(tool, given)


def check_arguments(tool: Tool, given: dict[str, Any]) -> tuple[dict[str, Any], Observation | None]:
    """Names and types against the tool's inputs; a null for an optional argument means its default."""
    inputs: Inputs = tool.inputs
    arguments = {k: v for k, v in given.items() if not (v is None and inputs.get(k, {}).get("nullable"))}
    expected = ", ".join(f"{k}: {v['type']}" for k, v in inputs.items()) or "none"
    unknown = [k for k in arguments if k not in inputs]
    missing = [k for k, v in inputs.items() if not v.get("nullable") and k not in arguments]
    if unknown or missing:
        problem = f"unknown: {', '.join(unknown)}" if unknown else f"missing: {', '.join(missing)}"
        return {}, refusal("FORMAT", f"{tool.name}: arguments {problem}", f"arguments are {expected}")
    for key, value in arguments.items():
        arguments[key] = plain_value(value, inputs[key]["type"])
        problem = text_problem(key, value) if isinstance(value, str) else ""
        if arguments[key] is None or problem:
            said = problem or f"is not of type {inputs[key]['type']}"
            return {}, refusal("FORMAT", f"{tool.name}: {key} {said}", f"arguments are {expected}")
    return arguments, None


def text_problem(key: str, text: str) -> str:
    """Why no program or file can take the text, or ""."""
    try:
        n_bytes = len(text.encode())
    except UnicodeEncodeError:
        return "holds half of a surrogate pair, which is no character"
    if "\0" in text:
        return "holds a NUL character"
    if n_bytes > MAX_ARGUMENT_BYTES and key not in PASSED_ON_WHOLE:
        return f"has {n_bytes:,} bytes, at most {MAX_ARGUMENT_BYTES:,}: write a file and use that"
    return ""


def plain_value(value: Any, kind: str) -> Any:
    """The value if it has the type, or says the same in another spelling ("120", 120.0, "true"); None otherwise."""
    if kind == "string":
        return value if isinstance(value, str) else None
    if kind == "boolean":
        return {"true": True, "false": False}.get(str(value).lower())
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() and abs(number) <= MAX_NUMBER else None
