"""Run a command in a real pseudo-terminal and save what a person would see as an SVG picture.

    python docs/record_terminal.py docs/demo.svg -- make demo

The screen is emulated by pyte (``pip install pyte``), so progress bars appear as they ended; nothing is retouched.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from pathlib import Path

COLUMNS, ROWS, SCROLLBACK = 110, 50, 2000


def run_in_terminal(argv: list[str]) -> tuple[bytes, int]:
    """Everything that the command wrote to its terminal, and its exit code."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execvp(argv[0], argv)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    chunks = []
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # the terminal's other end closes with the last process
            break
        if not chunk:
            break
        chunks.append(chunk)
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
    return b"".join(chunks), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def screen_lines(output: bytes) -> list[object]:
    """The lines on the screen and above it, with their colours, as rich Text."""
    import pyte
    from rich.style import Style
    from rich.text import Text

    screen = pyte.HistoryScreen(COLUMNS, ROWS, history=SCROLLBACK)
    pyte.ByteStream(screen).feed(output)
    rows = [*screen.history.top, *(screen.buffer[y] for y in range(ROWS))]
    lines: list[object] = []
    for row in rows:
        text = Text()
        for x in range(COLUMNS):
            cell = row[x]
            colour = rich_colour(cell.fg)
            text.append(cell.data, Style(color=colour, bold=cell.bold, italic=cell.italics))
        text.rstrip()
        lines.append(text)
    while lines and not str(lines[-1]):
        lines.pop()
    return lines


def rich_colour(name: str) -> str | None:
    """pyte's colour names in rich's words; six hex digits become ``#rrggbb``."""
    if name == "default":
        return None
    if len(name) == 6 and all(c in "0123456789abcdef" for c in name):
        return f"#{name}"
    known = {"brown": "yellow", "brightbrown": "bright_yellow"}
    return known.get(name, name.replace("bright", "bright_") if name.startswith("bright") else name)


def main() -> int:
    """Record, draw, and pass the command's exit code on."""
    from rich.console import Console

    target, argv = Path(sys.argv[1]), sys.argv[sys.argv.index("--") + 1 :]
    shown = os.environ.get("SHOWN", " ".join(argv))  # the same command without what only the recording needs
    output, code = run_in_terminal(argv)
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere)
        console.print(f"$ {shown}", style="bold")
        for line in screen_lines(output):
            console.print(line)
        picture = console.export_svg(title="xar-agent")
    # rich names a web font; the picture must not ask anybody for anything.
    target.write_text(re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL))
    return code


if __name__ == "__main__":
    sys.exit(main())
