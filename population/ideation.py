"""Ideas from a language model: as many as there are places, each one readable, new, and paid for once."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xar_agent import prompts
from xar_agent.agent.choose import LOCAL_PREFIX
from xar_agent.agent.messages import (
    ChatModel,
    ContextOverflow,
    Message,
    ModelReply,
    ModelRequest,
    RequestRefused,
    ToolsRefused,
)
from xar_agent.agent.types import Idea
from xar_agent.envs.knobs import Knob
from xar_agent.envs.spec import Baseline, EnvSpec
from xar_agent.errors import ModelUnavailable
from xar_agent.population.idea_answers import answer_format, problem_of, read_ideas
from xar_agent.population.idea_context import ROOMY, TIGHT, Room, Scene, ask_text, groups, short, system_text
from xar_agent.population.idea_log import Refusal, ReplyLog
from xar_agent.population.knobs import idea_text, random_setting
from xar_agent.population.novelty import NEAR, nearest
from xar_agent.population.types import Outcome, Slot

MAX_REPAIRS = 2
"""Of answers that cannot be read, in one conversation."""
MAX_REQUESTS = 6
"""In one conversation, whatever they are for."""
SMALL_TOKENS_AN_IDEA = 200
SMALL_TEMPERATURE = 0.7
"""Greedy, a small model repeats itself; hosted models keep their own default, which some do not let one change."""
SMALL_ANSWER_CHARS = 500
"""Of an earlier answer in the embedded model's window."""
MAX_DRAWS = 200
"""From the knob menu, for one place."""

OnEvent = Callable[[Any], None]
"""Hears of ``Asked``."""


@dataclass(frozen=True, slots=True)
class Call:
    """One proposal: the places to fill, and what is known."""

    number: int
    epoch: int
    slots: tuple[Slot, ...]
    outcomes: Sequence[Outcome]
    """In the order of results."""
    pending: Sequence[Idea]
    """Handed out, without a result yet."""
    folder: Path
    """Where the replies of all proposals are recorded."""
    rng_seed: str
    samples_evenly: bool = False
    """Where not all that was tried fits: any of it alike, rather than the best and the latest first."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A model has answered a request for ideas."""

    number: int
    """Of the proposal."""
    n_wanted: int
    n_read: int
    """Ideas in the answer, before those that are not new were taken out."""
    recorded: bool
    """The answer was on record: nothing was sent."""


def propose_with_model(
    call: Call,
    *,
    env: EnvSpec,
    preset: str,
    baseline: Baseline | None,
    files: Mapping[str, str],
    model: ChatModel,
    knobs: Sequence[Knob] = (),
    on_event: OnEvent | None = None,
) -> tuple[Idea, ...]:
    """One idea for each place, in their order. The same call after a crash takes the recorded replies.

    Args:
        call: what is wanted.
        env: the environment.
        preset: its size.
        baseline: of the unchanged repository, if known.
        files: path -> text of each editable file of the unchanged repository.
        model: who thinks of them.
        knobs: the environment's menu, which fills the places that the model leaves empty.
        on_event: hears how it goes.

    Raises:
        ModelUnavailable: no model answers, or it gave too few ideas and there is no menu.
        BudgetReached: the next request may not be paid for; earlier ones are on record.
        StoreError: a reply cannot be recorded.
    """
    log = ReplyLog(call.folder / f"{proposal_name(call.number)}.jsonl")
    scene = Scene(env, preset, baseline, files, call.outcomes, knobs, call.samples_evenly)
    return Ideation(call, scene, model, log, on_event or (lambda _: None)).run(knobs)


def proposal_name(number: int) -> str:
    """What a proposal is called on disk and in the account."""
    return f"proposal-{number:04d}"


@dataclass(slots=True)
class Talk:
    """One conversation about some places of one kind."""

    slot: Slot
    n: int
    room: Room
    messages: list[Message]
    ideas: list[Idea] = field(default_factory=list)
    held: list[Idea] = field(default_factory=list)
    """Near-duplicates that were sent back: taken if nothing better comes."""
    repairs: int = 0
    idle: int = 0
    """Readable answers in a row without a new idea."""

    @property
    def missing(self) -> int:
        """Places without an idea."""
        return self.n - len(self.ideas)


class Ideation:
    """One proposal at work."""

    def __init__(self, call: Call, scene: Scene, model: ChatModel, log: ReplyLog, tell: OnEvent) -> None:
        self._call = call
        self._scene = scene
        self._model = model
        self._log = log
        self._tell = tell
        self._rng = random.Random(call.rng_seed)
        self._small = model.name.startswith(LOCAL_PREFIX)
        self._room = TIGHT if self._small else ROOMY
        self._takes_format = True
        self._known = {*(o.idea.id for o in call.outcomes), *(idea.id for idea in call.pending)}
        self._texts = {o.idea.id: o.idea.text for o in call.outcomes}
        self._found: list[Idea] = []
        """All of this proposal so far, in the order in which they came."""

    def run(self, knobs: Sequence[Knob]) -> tuple[Idea, ...]:
        """One idea for each place."""
        ideas: dict[int, Idea] = {}
        for places in groups(self._call.slots, self._room.ideas):
            found = self._converse(self._call.slots[places[0]], len(places))
            ideas.update(zip(places, found, strict=False))
        n_slots, n_given = len(self._call.slots), len(ideas)
        if n_given < n_slots:
            rng = random.Random(f"{self._call.rng_seed}/menu")
            for place in range(n_slots):
                idea = ideas.get(place) or self._from_menu(self._call.slots[place], knobs, rng)
                if idea is None:
                    hint = "use a stronger model, or fewer ideas; the same command goes on"
                    raise ModelUnavailable(f"{self._model.name} gave {n_given} of {n_slots} ideas", hint)
                ideas[place] = idea
        return tuple(ideas[place] for place in range(n_slots))

    def _converse(self, slot: Slot, n: int) -> list[Idea]:
        """Up to ``n`` ideas for places like this one."""
        talk = self._open(slot, n)
        for _ in range(MAX_REQUESTS):
            reply = self._ask(talk)
            if isinstance(reply, Refusal):
                if talk.room is self._room and self._room is not TIGHT and len(talk.messages) == 2:
                    self._room = TIGHT
                    talk = self._open(slot, n)
                    continue
                break
            follow_up = self._take(talk, reply)
            if not follow_up:
                break
            said = reply.text.strip() or "(no answer)"
            kept = talk.messages[:2] if talk.room.small else talk.messages
            said = said[:SMALL_ANSWER_CHARS] if talk.room.small else said
            talk.messages = [*kept, {"role": "assistant", "content": said}, {"role": "user", "content": follow_up}]
        for idea in talk.held[: talk.missing]:
            self._accept(talk, idea)
        return talk.ideas

    def _open(self, slot: Slot, n: int) -> Talk:
        coming = [*self._call.pending, *self._found]
        asked = ask_text(self._scene, self._room, slot, n, coming, self._rng)
        system = {"role": "system", "content": system_text(self._scene, self._room)}
        return Talk(slot, n, self._room, [system, {"role": "user", "content": asked}])

    def _take(self, talk: Talk, reply: ModelReply) -> str:
        """Take the answer's ideas in; what to say next, empty when the conversation is over."""
        texts = read_ideas(reply.text)
        if not texts:
            talk.repairs += 1
            if talk.repairs > MAX_REPAIRS:
                return ""
            return prompts.render("ideate_repair", problem=problem_of(reply), n=talk.missing)
        before = talk.missing
        near = self._sift(talk, texts)
        talk.idle = talk.idle + 1 if talk.missing == before else 0
        if not talk.missing or talk.idle > 1:
            return ""
        return prompts.render("ideate_again", n=talk.missing, near=near)

    def _sift(self, talk: Talk, texts: Sequence[str]) -> list[dict[str, str]]:
        """Accept what is new; what is not, with what it is like, when this is the first time."""
        first_time = not talk.held
        near, held = [], []
        for text in texts:
            idea = Idea(text, self._scene.env.name, talk.slot.parents, talk.slot.origin, self._call.epoch)
            others = self._others(talk)
            index, alike = nearest(text, others)
            like = text if self._repeats_parent(idea) else others[index] if alike >= NEAR else ""
            if like and first_time:
                near.append({"text": short(text, talk.room.idea), "like": short(like, talk.room.idea)})
                held.append(idea)
            elif talk.missing:
                self._accept(talk, idea)
        talk.held += held
        return near if talk.missing else []

    def _others(self, talk: Talk) -> list[str]:
        """Texts that an idea must differ from. A child may resemble its parents."""
        known = [o.idea for o in self._call.outcomes if o.idea.id not in talk.slot.parents]
        return [idea.text for idea in (*known, *self._call.pending, *self._found)]

    def _accept(self, talk: Talk, idea: Idea) -> None:
        """Give the idea a place, unless it is one that there is already."""
        if idea.id not in self._known and not self._repeats_parent(idea):
            self._known.add(idea.id)
            self._found.append(idea)
            talk.ideas.append(idea)

    def _repeats_parent(self, idea: Idea) -> bool:
        """Its text is a parent's own, word for word: carried out already in what it starts from."""
        return any(self._texts.get(parent) == idea.text for parent in idea.parents)

    def _ask(self, talk: Talk) -> ModelReply | Refusal:
        """The model's answer, recorded; or that the conversation is too long for it."""
        while True:
            request = self._request(talk)
            answer = self._log.take(request)
            recorded = answer is not None
            if answer is None:
                answer = self._send(request)
            if isinstance(answer, Refusal) and answer.kind == "format" and request.response_format is not None:
                self._takes_format = False
                continue
            if isinstance(answer, ModelReply):
                n_read = len(read_ideas(answer.text))
                self._tell(Asked(self._call.number, talk.missing, n_read, recorded))
            return answer

    def _send(self, request: ModelRequest) -> ModelReply | Refusal:
        try:
            reply = self._model.complete(request)
        except ContextOverflow as error:
            return self._log.add_refusal(request, Refusal("overflow", error.message))
        except (RequestRefused, ToolsRefused) as error:  # some servers make a schema into a tool, and refuse that
            if request.response_format is None:
                raise
            return self._log.add_refusal(request, Refusal("format", error.message))
        return self._log.add_reply(request, reply)

    def _request(self, talk: Talk) -> ModelRequest:
        wanted = answer_format(talk.missing, bounded=self._small) if self._takes_format else None
        if not self._small:
            return ModelRequest(talk.messages, response_format=wanted)
        return ModelRequest(
            talk.messages,
            response_format=wanted,
            max_tokens=SMALL_TOKENS_AN_IDEA * talk.missing + 50,
            temperature=SMALL_TEMPERATURE,
            seed=self._call.number,
        )

    def _from_menu(self, slot: Slot, knobs: Sequence[Knob], rng: random.Random) -> Idea | None:
        """An idea from the knob menu that there is not yet; None without a menu, or when it is used up."""
        for _ in range(MAX_DRAWS if knobs else 0):
            text = idea_text(random_setting(knobs, rng), knobs)
            idea = Idea(text, self._scene.env.name, slot.parents, slot.origin, self._call.epoch)
            if idea.id not in self._known:
                self._known.add(idea.id)
                return idea
        return None
