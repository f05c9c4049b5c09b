"""read_file, edit_file, write_file."""

from __future__ import annotations

from xar_agent.tools.matching import Match, Matches, find_matches, nearest_places
from xar_agent.tools.observation import Observation, cap_text, refusal
from xar_agent.tools.syntax import new_syntax_error
from xar_agent.tools.workspace import Refused, Workspace

MAX_SHOWN_CHARS = 24_000  # about 6k tokens: a large file is read in parts
MAX_WRITTEN_CHARS = 200_000
MAX_READ_LINES = 2_000


def read_file(workspace: Workspace, path: str, start_line: int = 1, max_lines: int = 400) -> Observation:
    """Lines of a text file under a header that says which ones they are."""
    name = workspace.relative(path)
    text = workspace.read_text(name)
    workspace.remember(name, text)
    lines = text.splitlines()
    first = min(max(start_line, 1), max(len(lines), 1))
    shown = lines[first - 1 : first - 1 + min(max(max_lines, 1), MAX_READ_LINES)]
    last = first + len(shown) - 1
    header = f"{name}, lines {first}-{last} of {len(lines)}:" if lines else f"{name} is empty"
    body = cap_text("\n".join(shown), MAX_SHOWN_CHARS)
    return Observation(f"{header}\n{body}", summary=f"{name}:{first}-{last}")


def edit_file(workspace: Workspace, path: str, old_str: str, new_str: str, replace_all: bool = False) -> Observation:
    """Replace one place, or every place if asked; nothing is written unless all is well."""
    name = workspace.relative(path)
    workspace.require_editable(name)
    text = workspace.read_text(name)
    if workspace.is_stale(name, text):
        return refusal("STALE", f"{name} has changed since you last saw it", "read it again, then edit")
    if old_str == new_str:
        return refusal(
            "NO_MATCH", "old_str and new_str are equal: nothing would change", "give the new text in new_str"
        )
    matches = find_matches(text, old_str, new_str) if old_str else None
    if matches is None:
        return no_match(name, text, old_str)
    if len(matches.places) > 1 and not replace_all:
        return ambiguous(name, matches)
    edited = apply_places(text, matches.places)
    error = new_syntax_error(name, text, edited)
    if error:
        return refusal(
            "SYNTAX", f"the edit would break {name}: {error}", "nothing was written; send the edit again, corrected"
        )
    workspace.write_text(name, edited)
    where = ", ".join(str(place.line) for place in matches.places[:10])
    done = f"edited {name} at line {where} (match: {matches.rule})"
    return Observation(f"{done}\n{surroundings(edited, matches.places[0])}", summary=done)


def write_file(workspace: Workspace, path: str, content: str) -> Observation:
    """Write a whole file, new or not."""
    name = workspace.relative(path)
    workspace.require_editable(name)
    if len(content) > MAX_WRITTEN_CHARS:
        return refusal(
            "TOO_LARGE", f"{len(content)} characters; at most {MAX_WRITTEN_CHARS}", "split it, or use edit_file"
        )
    before = text_before(workspace, name)
    error = new_syntax_error(name, before, content)
    if error:
        return refusal("SYNTAX", f"{name} would not parse: {error}", "nothing was written; send it again, corrected")
    workspace.write_text(name, content)
    done = f"wrote {name} ({len(content.splitlines())} lines)"
    return Observation(done, summary=done)


def text_before(workspace: Workspace, name: str) -> str | None:
    """The file's text, or None when there is none yet.

    Raises:
        Refused: the path is a folder, or leads out of the workspace.
    """
    try:
        return workspace.read_text(name)
    except Refused as refused:
        if refused.observation.error in {"NOT_FOUND", "BINARY", "TOO_LARGE"}:
            return None
        raise


def no_match(name: str, text: str, old: str) -> Observation:
    """NO_MATCH with the places that look most like what was sought."""
    near = nearest_places(text, old) if old.strip() else []
    hint = "copy old_str from the file as it is" if near else "read the file; write_file writes a new one"
    return refusal("NO_MATCH", f"old_str does not occur in {name}", hint, nearest=near)


def ambiguous(name: str, matches: Matches) -> Observation:
    """AMBIGUOUS with the line of each place."""
    lines = [place.line for place in matches.places]
    message = f"old_str occurs {len(lines)} times in {name}, at lines {', '.join(map(str, lines[:20]))}"
    return refusal("AMBIGUOUS", message, "add lines around it, or set replace_all", lines=lines[:20])


def apply_places(text: str, places: tuple[Match, ...]) -> str:
    """The text with each place replaced, from the first on; one that overlaps a replaced one stays."""
    parts, at = [], 0
    for place in places:
        if place.start >= at:
            parts += [text[at : place.start], place.replacement]
            at = place.end
    return "".join([*parts, text[at:]])


def surroundings(text: str, place: Match) -> str:
    """The edited lines with two lines around them."""
    lines = text.splitlines()
    first = max(place.line - 3, 0)
    last = place.line + place.replacement.count("\n") + 2
    return cap_text("\n".join(lines[first:last]), 4_000)
