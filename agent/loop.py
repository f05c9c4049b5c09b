"""The agent's loop: smolagents' ``ToolCallingAgent`` with native tool messages and its own order, limits and record.

Importing this module imports smolagents.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from smolagents import ActionOutput, ActionStep, ChatMessage, LogLevel, MessageRole, Model, Tool, ToolCallingAgent
from smolagents.agents import EMPTY_PROMPT_TEMPLATES
from smolagents.memory import ToolCall as SmolToolCall
from smolagents.monitoring import TokenUsage

from xar_agent import prompts
from xar_agent.agent.events import StepEvent
from xar_agent.agent.limits import EpisodeLimits, Meter
from xar_agent.agent.messages import ChatModel, ContextOverflow, Message, ModelReply, ModelRequest
from xar_agent.agent.recorder import Recorder
from xar_agent.agent.state import BAD_REPLY_LIMIT, BadReply, reply_record, unique_ids
from xar_agent.agent.types import Outcome
from xar_agent.errors import Interrupted
from xar_agent.redact import redact
from xar_agent.tools.observation import Observation, refusal
from xar_agent.tools.toolbox import check_call, tool_schema


@dataclass(frozen=True, slots=True)
class Ending:
    """Why the loop stopped."""

    outcome: Outcome
    reason: str


class ToolRunner(Protocol):
    """Carries calls out: over a real workspace, or from a record."""

    tools: Sequence[Tool]

    def run(self, name: str, arguments: dict[str, Any]) -> Observation:
        """The result of a call whose arguments have been checked."""
        ...

    def tree(self) -> str:
        """Hash of the repository after the step."""
        ...

    def diff(self) -> str:
        """All changes since the base, as text."""
        ...


class SeamModel(Model):  # type: ignore[misc]
    """smolagents' view of a ``ChatModel``: messages go out as they are, without forced stop words or tool choice."""

    def __init__(self, model: ChatModel) -> None:
        super().__init__(model_id=model.name)
        self.model = model

    def generate(self, messages: list[Message], tools: list[dict[str, Any]] | None = None, **_: Any) -> ChatMessage:
        """One reply; ``raw`` carries the ``ModelReply``."""
        reply = self.model.complete(ModelRequest(messages=messages, tools=tools or []))
        usage = TokenUsage(input_tokens=reply.input_tokens, output_tokens=reply.output_tokens)
        return ChatMessage(role=MessageRole.ASSISTANT, content=reply.text, raw=reply, token_usage=usage)


class EpisodeAgent(ToolCallingAgent):  # type: ignore[misc]
    """One episode. The conversation lives in ``recorder.state``; smolagents' memory is for its callbacks only."""

    def __init__(
        self,
        model: ChatModel,
        runner: ToolRunner,
        recorder: Recorder,
        limits: EpisodeLimits,
        *,
        on_step: Callable[[StepEvent], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        self.recorder = recorder
        self.runner = runner
        self.meter = Meter(limits, recorder.state)
        self.ending: Ending | None = None
        self.on_step = on_step
        self.cancel = cancel or threading.Event()
        self.gives_up_in_words = model.protocol == "guided"
        super().__init__(
            tools=list(runner.tools),
            model=SeamModel(model),
            prompt_templates=EMPTY_PROMPT_TEMPLATES,
            verbosity_level=LogLevel.OFF,
            max_tool_threads=1,
            max_steps=max(limits.max_steps - recorder.state.steps, 0),
        )
        self.tools = {tool.name: tool for tool in runner.tools}  # without smolagents' own final_answer
        self.schemas = [tool_schema(tool) for tool in runner.tools]

    def go(self) -> Ending:
        """Take steps until something ends the episode.

        Raises:
            ModelUnavailable, ToolsRefused: the model seam failed.
            SandboxError: the sandbox failed.
            Interrupted: ``cancel`` was set.
        """
        self._take_up()
        if self.ending is None and self.max_steps > 0:  # smolagents takes a limit of 0 for no limit given
            self.run("")
        return self.ending or Ending("over_budget", f"step limit of {self.meter.limits.max_steps} reached")

    def _take_up(self) -> None:
        """See what a resumed episode's last step meant: a crash may have come before that was on record."""
        state = self.recorder.state
        if state.ended_by:
            self.ending = Ending("submitted", ENDINGS.get(state.ended_by, state.ended_by))
        elif not state.judged:
            said = next((m["content"] for m in reversed(state.messages) if m["role"] == "assistant"), "")
            self._judge_step(ModelReply(said or ""), state.last_bad)
            self.recorder.sync()

    def initialize_system_prompt(self) -> str:
        """The conversation begins with its own system message."""
        return ""

    def write_memory_to_messages(self, summary_mode: bool = False) -> list[Message]:
        """The conversation in the chat API's own roles: tool calls and results keep their ids and their order."""
        del summary_mode
        return list(self.recorder.state.messages)

    def _handle_max_steps_reached(self, task: str) -> str:
        """smolagents would pay for one more reply here."""
        del task
        return ""

    def _step_stream(self, memory_step: ActionStep) -> Iterator[ActionOutput]:
        """One step: ask, run the calls in their order, note the tree."""
        self._take_step(memory_step)
        yield ActionOutput(output=self.ending.reason if self.ending else "", is_final_answer=self.ending is not None)

    def _take_step(self, memory_step: ActionStep) -> None:
        if self.cancel.is_set():
            raise Interrupted("interrupted", "the same command with --run goes on from the last complete step")
        reached = self.meter.reached()
        if reached:
            self.ending = Ending("over_budget", reached)
            return
        step = self.recorder.state.steps + 1
        try:
            reply = self._ask(step, memory_step)
        except ContextOverflow as error:
            self.ending = Ending("failed", f"the conversation no longer fits the model's context: {error.message}")
            return
        ids = unique_ids(reply.tool_calls, step)
        checked = [check_call(self.runner.tools, call.name, call.arguments) for call in reply.tool_calls]
        bad = judge(reply, [refused for _, refused in checked])
        self.recorder.record("llm_response", step=step, call_ids=ids, bad=bad, **reply_record(reply))
        self._run_calls(step, reply, ids, checked)
        self._close_step(step, reply, bad)
        self._fill_memory(memory_step, reply, ids)

    def _ask(self, step: int, memory_step: ActionStep) -> ModelReply:
        messages = self.write_memory_to_messages()
        self.recorder.record_request(step, ModelRequest(messages=messages, tools=self.schemas))
        answer = self.model.generate(messages, tools=self.schemas)
        memory_step.model_output_message = answer
        memory_step.model_output = answer.content
        memory_step.token_usage = answer.token_usage
        reply = answer.raw
        assert isinstance(reply, ModelReply)
        return reply

    def _run_calls(
        self, step: int, reply: ModelReply, ids: list[str], checked: list[tuple[dict[str, Any], Observation | None]]
    ) -> None:
        """Each call in the order in which the model wrote them, each with exactly one result."""
        over = False
        for call, call_id, (arguments, refused) in zip(reply.tool_calls, ids, checked, strict=True):
            self.recorder.record("tool_call", step=step, call_id=call_id, name=call.name, arguments=call.arguments)
            started = time.monotonic()
            if over:
                result = refusal("SKIPPED", "the episode is over")
            else:
                result = refused or self.runner.run(call.name, arguments)
            self._record_result(step, call_id, result)
            self._tell(StepEvent(step, call.name, redact(result.summary), time.monotonic() - started, not result.error))
            over = over or result.ends or result.error == "BUDGET"
            if result.ends:
                self.ending = Ending("submitted", ENDINGS.get(call.name, result.summary))
            elif result.error == "BUDGET":
                self.ending = Ending("over_budget", result.summary)

    def _record_result(self, step: int, call_id: str, result: Observation) -> None:
        status = "error" if result.error else "ok"
        self.recorder.record(
            "tool_result",
            step=step,
            call_id=call_id,
            status=status,
            error=result.error,
            shown=result.text,
            full=result.full,
            exec=result.record,
            summary=result.summary,
            ends=result.ends,
        )
        if result.error == "INTEGRITY":
            self.recorder.record("integrity", step=step, call_id=call_id, reason=result.summary)

    def _close_step(self, step: int, reply: ModelReply, bad: BadReply) -> None:
        """Note the tree, say what the model has to hear, and see whether to go on."""
        state = self.recorder.state
        tree = self.runner.tree()
        changed = {"diff": self.runner.diff()} if tree != state.tree else {}
        self.recorder.record("workspace", step=step, tree=tree, **changed)
        if self.ending is None:
            self._judge_step(reply, bad)
        self.recorder.sync()

    def _judge_step(self, reply: ModelReply, bad: BadReply) -> None:
        state = self.recorder.state
        if bad == "no_call" and (self.gives_up_in_words or state.bad_replies >= BAD_REPLY_LIMIT):
            self.ending = Ending("gave_up", first_line(reply.text) or "the model called no tool")
        elif bad and state.bad_replies >= BAD_REPLY_LIMIT:
            self.ending = Ending("failed", BAD_REPLY_REASONS[bad])
        elif state.going_in_circles and state.nudged:
            self.ending = Ending("stuck", "the same calls had the same results again, after a hint")
        elif state.going_in_circles:
            self.recorder.record("context", reason="nudge", text=prompts.render("nudge"))
        elif bad in {"no_call", "cut_off"}:
            self._tell(StepEvent(state.steps, "reply", BAD_REPLY_LINES[bad], reply.latency_s, ok=False))
            self.recorder.record("context", reason=bad, text=prompts.render("format", bad=bad))

    def _tell(self, event: StepEvent) -> None:
        if self.on_step is not None:
            self.on_step(event)

    def _fill_memory(self, memory_step: ActionStep, reply: ModelReply, ids: list[str]) -> None:
        """smolagents' own memory of the step, for its callbacks and printers."""
        memory_step.tool_calls = [
            SmolToolCall(name=call.name, arguments=call.arguments, id=call_id)
            for call, call_id in zip(reply.tool_calls, ids, strict=True)
        ]
        shown = [
            m["content"] for m in self.recorder.state.messages if m.get("tool_call_id") in ids and m["role"] == "tool"
        ]
        memory_step.observations = "\n".join(shown[-len(ids) :]) if ids else None


ENDINGS = {"smoke_test": "the smoke test passed; nothing was submitted", "submit_run": "submitted"}
BAD_REPLY_LINES: dict[BadReply, str] = {"no_call": "no tool was called", "cut_off": "cut off by the token limit"}
BAD_REPLY_REASONS: dict[BadReply, str] = {
    "malformed": f"{BAD_REPLY_LIMIT} replies in a row had no tool call that could be run",
    "cut_off": f"{BAD_REPLY_LIMIT} replies in a row were cut off by the token limit",
}


def judge(reply: ModelReply, refused: list[Observation | None]) -> BadReply:
    """Whether the reply had any call that can be run, and if not, why."""
    if reply.tool_calls and not all(refused):
        return ""
    if reply.finish_reason == "length":
        return "cut_off"
    return "malformed" if reply.tool_calls else "no_call"


def first_line(text: str) -> str:
    """The first line that is not empty, at most 200 characters."""
    return next((line.strip()[:200] for line in text.splitlines() if line.strip()), "")
