"""The guided policy: a small model picks one named part and rewrites it; everything else is done for it.

A 1.5-billion-parameter model cannot drive tools, but it can choose from a list and rewrite ten lines. So each turn of
the ordinary loop is answered with an ordinary tool call: ``edit_file`` (pick, rewrite, check), ``smoke_test``,
``edit_file`` again with the failure in the prompt, ``submit_run``. Loop, gates and record see no difference.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xar_agent.agent.guided_calls import Answerer, Calls
from xar_agent.agent.guided_code import UNCHANGED, read_part
from xar_agent.agent.guided_history import MAX_PROBLEM_CHARS, Step, later_words, read_steps, refusal_of, smoke_problem
from xar_agent.agent.guided_meant import meant_instead
from xar_agent.agent.guided_prompts import (
    Chat,
    correction,
    pick_chat,
    pick_schema,
    read_fenced,
    read_json_field,
    rewrite_chat,
    value_chat,
    value_schema,
)
from xar_agent.agent.guided_values import apply_value, stated_values
from xar_agent.agent.messages import ContextOverflow, ModelProtocol, ModelReply, ModelRequest, ToolCall
from xar_agent.agent.outline import Part, assigned_expressions, outline, outline_files, splice

PICK_SLOT, VALUE_SLOT, REWRITE_SLOT = 0, 1, 2  # one a prompt family: the server keeps each beginning computed
SLOTS = 3
MAX_PICKS = 2
MAX_CORRECTIONS = 2
"""Of one part before it is tried, and again after failed smoke tests."""
PICK_TOKENS = 48
VALUE_TOKENS = 48
CHARS_PER_TOKEN = 3  # of Python code; too low is safe here


class GaveUp(Exception):
    """The policy has no sound edit; the text says why."""


@dataclass(slots=True)
class Draft:
    """The part in work and the conversation about it."""

    part: Part
    """As it was before the first edit."""
    chat: Chat
    file_text: str
    """Its whole file, likewise."""
    current: str
    """What stands in the file now for that part."""
    answer: str = ""
    smoke_corrections: int = 0


class GuidedModel:
    """A ``ChatModel`` around a small local model. ``begin`` must be called before each episode's first turn."""

    protocol: ModelProtocol = "guided"

    def __init__(self, name: str, server: Answerer) -> None:
        self.name = name
        self._server = server
        self._calls = Calls(server)
        self._idea = ""
        self._files: dict[str, str] = {}
        self._draft: Draft | None = None
        self._undo = ("", "")

    def begin(self, idea_text: str, files: Mapping[str, str]) -> None:
        """Set the task: the idea, and path -> text of the files that may be edited, as they are now."""
        self._idea = " ".join(idea_text.split())
        self._files = dict(files)
        self._draft = None

    def complete(self, request: ModelRequest) -> ModelReply:
        """The next tool call, or a last message without one that says why there is no sound edit.

        Raises:
            ModelUnavailable: the local server cannot be started or stopped answering.
        """
        self._calls = Calls(self._server)
        steps = read_steps(request.messages)
        try:
            return self._next_turn(steps, later_words(request.messages))
        except (GaveUp, ContextOverflow) as reason:
            return self._reply(f"I give up: {reason}", len(steps))

    def close(self) -> None:
        """Stop the server; a later turn starts it again."""
        self._server.close()

    def _next_turn(self, steps: list[Step], said: str) -> ModelReply:
        turn = len(steps)
        edits = [step for step in steps if step.name == "edit_file"]
        if not edits:
            return self._edit(self._propose(), turn)
        last = steps[-1]
        refused = refusal_of(last.result)
        if self._draft is None:
            self._draft = self._resume(edits[-1])
        if said:
            return self._edit(self._correct(said[-MAX_PROBLEM_CHARS:]), turn)
        if last.name == "edit_file":
            if refused:
                self._files[self._draft.part.path], self._draft.current = self._undo
                return self._edit(self._correct(f"the edit was refused: {refused}"), turn)
            return self._reply("Does it run?", turn, "smoke_test", {})
        if last.name == "smoke_test":
            problem = smoke_problem(last.result, self._files)
            if problem:
                return self._edit(self._correct(problem), turn)
            return self._reply("It runs.", turn, "submit_run", {"message": self._idea})
        if last.name == "submit_run" and "SMOKE_STALE" in refused:
            return self._reply("Test it again.", turn, "smoke_test", {})
        raise GaveUp(f"the last step was refused: {refused or last.name}")

    def _propose(self) -> str:
        """New source of the picked part; ``self._draft`` says which."""
        parts = outline_files(self._files)
        problem = "there is no Python file that may be edited"
        for _ in range(MAX_PICKS):
            if not parts:
                break
            part = self._pick(parts)
            chat = self._first_chat(part)
            self._draft = Draft(part, chat, self._files[part.path], part.source)
            source, problem = self._write(self._draft)
            if not problem:
                return source
            if part.kind == "constant" or problem != UNCHANGED:
                break  # it is the right part: another one would be changed into something that nobody asked for
            parts = [other for other in parts if other.label != part.label]
        raise GaveUp(problem)

    def _correct(self, problem: str) -> str:
        """New source after a failure that only running the code could show."""
        draft = self._draft
        assert draft is not None
        draft.smoke_corrections += 1
        if draft.smoke_corrections > MAX_CORRECTIONS:
            raise GaveUp(problem)
        self._send_back(draft, problem)
        source, problem = self._write(draft)
        if problem:
            raise GaveUp(problem)
        if source == draft.current:
            raise GaveUp("the correction is what failed before")
        return source

    def _write(self, draft: Draft) -> tuple[str, str]:
        """Ask until an answer passes the checks: its source, or the last problem."""
        doubted = ""
        for attempt in range(1 + MAX_CORRECTIONS):
            previous, draft.answer = draft.answer, self._ask_part(draft)
            source, problem, doubt = self._checked(draft)
            if not problem and (not doubt or doubted):
                return source, ""
            doubted = doubt
            if attempt == MAX_CORRECTIONS or (problem and draft.answer == previous):
                break
            self._send_back(draft, problem or doubt)
        return "", problem

    def _checked(self, draft: Draft) -> tuple[str, str, str]:
        """The answer's source, what is wrong with it, and what may be."""
        text = draft.file_text
        if draft.part.kind == "constant":
            value = apply_value(draft.part, draft.answer, self._idea, assigned_expressions(text))
            return value.source, value.problem, value.doubt
        code = read_part(draft.part, draft.answer, text, self._idea)
        return code.source, code.problem, ""

    def _send_back(self, draft: Draft, problem: str) -> None:
        constant = draft.part.kind == "constant"
        said = json.dumps({"value": draft.answer}) if constant else f"```python\n{draft.answer}\n```"
        wanted = "the corrected JSON" if constant else f"the complete corrected code of {draft.part.name} in one fence"
        draft.chat += [{"role": "assistant", "content": said}, correction(problem, wanted)]

    def _pick(self, parts: list[Part]) -> Part:
        picked = self._choose(parts)
        known = assigned_expressions(self._files[picked.path])
        instead = meant_instead(self._idea, parts, picked, known)
        return self._choose(instead) if instead else picked

    def _choose(self, parts: list[Part]) -> Part:
        if len(parts) == 1:
            return parts[0]
        text = self._calls.ask(
            "pick",
            pick_chat(self._idea, outline_files(self._files)),
            slot=PICK_SLOT,
            max_tokens=PICK_TOKENS,
            schema=pick_schema(parts),
        )
        label = read_json_field(text, "part")
        found = [part for part in parts if part.label == label]
        if not found:
            raise GaveUp("the model did not choose a part of the program")
        return found[0]

    def _first_chat(self, part: Part) -> Chat:
        if part.kind == "constant":
            return value_chat(self._idea, part)
        text = self._files[part.path]
        body = ast.parse(text).body
        imports = [ast.unparse(node) for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = [p.name for p in outline(part.path, text) if p.name != part.name]
        return rewrite_chat(self._idea, part, imports=imports, constants=names)

    def _ask_part(self, draft: Draft) -> str:
        if draft.part.kind == "constant":
            # A wrong first answer is mostly arithmetic with a number that was meant as it stands.
            schema = value_schema(stated_values(self._idea) if draft.answer else ())
            text = self._calls.ask("value", draft.chat, slot=VALUE_SLOT, max_tokens=VALUE_TOKENS, schema=schema)
            return read_json_field(text, "value")
        max_tokens = 2 * len(draft.part.source) // CHARS_PER_TOKEN + 200
        text = self._calls.ask("rewrite", draft.chat, slot=REWRITE_SLOT, max_tokens=max_tokens, stop=["\n```"])
        return read_fenced(text)

    def _edit(self, source: str, turn: int) -> ModelReply:
        """The ``edit_file`` call that puts this source where the part is now."""
        draft = self._draft
        assert draft is not None
        path = draft.part.path
        old, new = unique_edit(self._files[path], draft.current, source)
        self._undo = (self._files[path], draft.current)
        self._files[path] = self._files[path].replace(old, new, 1)
        draft.current = source
        arguments = {"path": path, "old_str": old, "new_str": new}
        return self._reply(f"{draft.part.label}: {first_change(old, new)}", turn, "edit_file", arguments)

    def _reply(self, text: str, turn: int, tool: str = "", arguments: dict[str, Any] | None = None) -> ModelReply:
        call = ToolCall(f"guided-{turn + 1}", tool, json.dumps(arguments, ensure_ascii=False)) if tool else None
        return self._calls.reply(text, call)

    def _resume(self, edit: Step) -> Draft:
        """The draft of an episode that another process began: the part that its last edit left behind."""
        path, new = str(edit.arguments.get("path")), str(edit.arguments.get("new_str"))
        for now in outline(path, self._files.get(path, "")):
            if now.source in new or new in now.source:
                text = splice(self._files[path], now, str(edit.arguments.get("old_str")))
                before = next((part for part in outline(path, text) if part.name == now.name), None)
                if before is not None:
                    return Draft(before, self._first_chat(before), text, now.source, now.source)
        raise GaveUp("the edit of the interrupted episode is no longer in the files")


def unique_edit(text: str, old: str, new: str) -> tuple[str, str]:
    """Old and new text of one place, with as many lines before it as make it unique in the file.

    The place is the first line-aligned one: parts start at column 0.
    """
    start = next(m.start() for m in re.finditer(re.escape(old), text) if m.start() == 0 or text[m.start() - 1] == "\n")
    first = start
    while text.count(text[first : start + len(old)]) > 1 and first > 0:
        first = text.rfind("\n", 0, first - 1) + 1
    return text[first : start + len(old)], text[first:start] + new


def first_change(old: str, new: str) -> str:
    """The first line that differs, for a person."""
    before = set(old.split("\n"))
    return next((line.strip() for line in new.split("\n") if line not in before), "lines removed")
