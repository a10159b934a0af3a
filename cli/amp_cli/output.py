"""How amp speaks. The rules:

  O1  What was asked for goes to standard output, and nothing else does; prose and progress go
      to standard error. --quiet keeps them back, and sentences about what was done too: of
      a list it leaves the names, one a line.
  O2  --json prints one document, ASCII, on one line; `watch` prints one for each message.
  O3  Text passes `neutral` before it reaches a terminal or a pipe, an assistant reads the one as
      well as the other: nothing that a peer wrote can move a cursor, set a title, reverse a line
      or hide a character. Such a character is shown as \\x1b, \\u202e or \\U000e0041; which ones
      they are, ampd/model/visible.py says, for the daemon too.
  O4  Colour only on a terminal that is not a dumb one, and never with NO_COLOR; it is added
      after O3.
  O5  A failure is one line, `amp: error: what, why`; where a command mends it, `; try: command`
      ends that line.
  O6  Lists and help fit the columns that COLUMNS or the terminal says, as far as only prose has to
      give way: what is copied (an address, a key, a command) or warns is never cut or folded.

Columns are aligned by the longest cell and end without blanks: two readers, a person and a
language model, and the second pays for each character.
"""

import os
import sys
from _collections_abc import (
    Iterable,
    Sequence,
)  # `collections.abc` would import all of `collections`
from io import TextIOWrapper

from amp_cli.errors import Failure
from amp_cli.json_text import dumps

BOLD, DIM, RED = "1", "2", "31"  # SGR parameters, ECMA-48 section 8.3.117
CELL = 100  # characters of one cell of a list; the whole text is what `read` is for
_LEAST = 12  # characters of prose that a narrow terminal leaves: two words


def neutral(text: str, *, lines: bool = True) -> str:
    """`text` with every character that could act instead of being seen written out (O3)."""
    if text.isascii() and (text.replace("\n", "") if lines else text).isprintable():
        return text  # most text, and no import
    from ampd.model.visible import visible

    return visible(text, lines=lines)


def one_line(text: object) -> str:
    """The same for a header, a cell or an error: line feeds and tabs are written out too."""
    return neutral(str(text), lines=False)


def shortened(text: str, length: int = CELL) -> str:
    """`text` in at most `length` characters; what joins or changes a neighbour goes with it."""
    if len(text) <= length:
        return text
    return text[: length - 1].rstrip("\u200c\u200d\ufe0f") + "\u2026"


def columns() -> int:
    """How wide the answer may be (O6); 0 where nobody says."""
    said = os.environ.get("COLUMNS", "")
    if said.isdecimal() and int(said) > 0:
        return int(said)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else 0
    except (OSError, ValueError):  # no descriptor behind it, or none that has a size
        return 0


def counted(count: int, thing: str) -> str:
    """`1 card`, `2 cards`."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


class Prose:
    """The last cell of a row: `text` gives way to what there is room for, and `note` never."""

    __slots__ = ("note", "text")

    def __init__(self, text: str, note: str = "") -> None:
        self.text = one_line(text)
        self.note = f" [{one_line(note)}]" if note else ""

    def within(self, room: int) -> str:
        """At most `room` characters, if that leaves some of the text."""
        return shortened(shortened(self.text, room - len(self.note)) + self.note)


class Output:
    """Where a command's answer goes."""

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self.json = json
        self.quiet = quiet
        for stream in (sys.stdout, sys.stderr):
            if isinstance(
                stream, TextIOWrapper
            ):  # a terminal that is not UTF-8 is no reason to fail
                stream.reconfigure(errors="backslashreplace")

    def document(self, value: object) -> None:
        """O2."""
        sys.stdout.write(dumps(value) + "\n")

    def line(self, text: str = "", style: str = "") -> None:
        """One line."""
        sys.stdout.write(_styled(one_line(text), style, terminal=sys.stdout.isatty()) + "\n")

    def said(self, text: str) -> None:
        """A sentence about what was done, or that there is nothing."""
        if not self.quiet:
            self.line(text)

    def text(self, text: str) -> None:
        """A body: its line feeds and tabs stay."""
        sys.stdout.write(neutral(text).rstrip("\n") + "\n")

    def fields(self, pairs: Iterable[tuple[str, object]]) -> None:
        """`name: value`, one a line; a value that is None or empty is left out."""
        for name, value in pairs:
            if value is not None and value != "":
                self.line(f"{name}: {value}")

    def listing(
        self, rows: Sequence[Sequence[object]], names: Iterable[str], bold: Iterable[int] = ()
    ) -> None:
        """A table; with --quiet, the name of each row and no more."""
        if not self.quiet:
            self.table(rows, bold)
            return
        for name in names:
            self.line(name)

    def table(self, rows: Sequence[Sequence[object]], bold: Iterable[int] = ()) -> None:
        """Aligned columns; the rows numbered in `bold` stand out on a terminal."""
        cells = _cells(rows, columns())
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        strong = frozenset(bold)
        for number, row in enumerate(cells):
            text = "  ".join(
                cell.ljust(width) for cell, width in zip(row, widths, strict=True) if width
            )
            style = BOLD if number in strong else ""
            sys.stdout.write(_styled(text.rstrip(), style, terminal=sys.stdout.isatty()) + "\n")

    def note(self, text: str) -> None:
        """Prose: about the answer, not part of it."""
        if not self.quiet:
            sys.stdout.flush()
            sys.stderr.write(one_line(text) + "\n")
            sys.stderr.flush()

    def progress(self, text: str) -> None:
        """How far something is, on a line of a terminal that the next one replaces; "" ends it."""
        if sys.stderr.isatty() and not self.quiet and os.environ.get("TERM") != "dumb":
            sys.stderr.write(f"\r{one_line(text)}\x1b[K")
            sys.stderr.flush()

    def flush(self) -> None:
        sys.stdout.flush()


def complain(failure: Failure) -> None:
    """O5."""
    from ampd.model.errors import in_one_line

    word = _styled("error:", RED, terminal=sys.stderr.isatty())
    text = in_one_line(str(failure), failure.hint)
    sys.stderr.write(f"amp: {word} {one_line(text)}\n")


def _cells(rows: Sequence[Sequence[object]], width: int) -> list[list[str]]:
    """Every cell as text; Prose gets what the other columns leave of `width` (0: no limit)."""
    plain = [["" if isinstance(c, Prose) else shortened(one_line(c)) for c in row] for row in rows]
    taken = [max(map(len, column)) for column in zip(*plain, strict=True)]
    room = width - sum(length + 2 for length in taken if length) if width else CELL
    for row, cells in zip(rows, plain, strict=True):
        if isinstance(last := row[-1], Prose):
            least = len(last.note) + (_LEAST if width else CELL // 2)
            cells[-1] = last.within(max(least, min(room, CELL)))
    return plain


def _styled(text: str, style: str, *, terminal: bool) -> str:
    if not style or not terminal or os.environ.get("NO_COLOR"):
        return text
    if os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{style}m{text}\x1b[0m"
