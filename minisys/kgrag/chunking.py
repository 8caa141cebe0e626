"""Documents to chunks: sentences within paragraphs, each with its span in the source.

The paper (arXiv 2502.06864, section 4.1) takes one sentence a chunk; `sentences` groups more. A chunk never
crosses a paragraph, and ``document[chunk.start:chunk.end] == chunk.text`` always holds, so that a citation
can point into the file. The splitter is a page of rules: full stops after initials, titles, abbreviations and
inside numbers do not end a sentence. It knows no grammar: “He likes vitamin C. Oranges have it.” stays whole.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath

from minisys.core.checks import check, check_positive_int
from minisys.kgrag.types import Chunk

SUFFIXES = (".txt", ".md", ".markdown", ".rst")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Never the end of a sentence: something always follows.
_TITLES = _words("""
    dec mr mrs ms dr prof st sr rev hon gen col maj capt lt sgt gov sen rep pres mt ft fr vs cf eg ie e.g i.e
    viz approx ca c fig figs eq eqs no nos vol vols pp p ed al jan feb mar apr jun jul aug sep sept oct nov
""")
# May end a sentence: it does where a new one clearly starts.
_ABBREVIATIONS = _words("jr inc ltd co corp etc est dept univ assn bros ave blvd rd")
_STARTERS = _words("""
    the a an this that these those it its he she they his her their we our i in on at by for from with as when
    while after before during since although however there here where who what why how if but and then today
    both many most some all no one two three several other another according because despite
""")

_BREAK = re.compile(r"[.!?…]+[\"'”’)\]»]*(?=\s)|[。！？]+[」』”]*")
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")
# A line that is a block by itself in Markdown: a heading, a list item, a table row, a quotation.
_BLOCK_LINE = re.compile(r"^[^\S\n]*(?:#{1,6}\s|[-*+]\s|\d{1,3}[.)]\s|>\s?|\|)", re.MULTILINE)
_MARKER = re.compile(r"\s*(?:#{1,6}\s+|[-*+]\s+|\d{1,3}[.)]\s+|>\s?)?")
_RULE = re.compile(r"^[\s\-=_*|:+#>~`]*$")


def chunk_document(document: str, text: str, *, sentences: int = 1) -> list[Chunk]:
    """Cut a document into chunks of up to `sentences` sentences of one paragraph.

    Args:
        document: its name: a title or a path; must not be blank.
        text: its whole text; a blank one gives no chunk.
        sentences: sentences a chunk.

    Returns:
        the chunks in order. Raises ValueError for a blank name, text that is no str, and `sentences` < 1.
    """
    check(isinstance(document, str) and bool(document.strip()), "document", repr(document), "a name")
    check(isinstance(text, str), "text", type(text).__name__, f"the text of {document!r} as str")
    check_positive_int("sentences", sentences)
    chunks, number = [], 0
    for paragraph in _paragraphs(text):
        spans = list(_sentences(text, *paragraph))
        for first in range(0, len(spans), sentences):
            group = spans[first : first + sentences]
            start, end = group[0][0], group[-1][1]
            chunks.append(Chunk(document, text[start:end], start, end, number + first))
        number += len(spans)
    return chunks


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Spans ``(start, end)`` of the sentences of `text`, in characters, without surrounding white space."""
    return [span for paragraph in _paragraphs(text) for span in _sentences(text, *paragraph)]


def title_of(document: str) -> str:
    """The name of a document as words: ``notes/ada_lovelace.md`` gives ``ada lovelace``; a title stays."""
    path = PurePosixPath(document.replace("\\", "/"))
    return path.stem.replace("_", " ") if path.suffix.lower() in SUFFIXES else document


def text_to_search(chunk: Chunk) -> str:
    """What is embedded and searched for a chunk: “title: text”; a lone sentence rarely names its topic."""
    return f"{title_of(chunk.document)}: {chunk.text}"


def read_folder(folder: str | Path) -> dict[str, str]:
    """Read the text and Markdown files below a folder, or one file, as ``{path below the folder: text}``.

    Names are sorted and use ``/``. Hidden files and folders are skipped. Raises ValueError where the path
    does not exist, holds no such file, or a file is no UTF-8.
    """
    root = Path(folder)
    check(root.exists(), "folder", f"{root}, which does not exist", "a folder of text or Markdown files")
    if root.is_file():
        files, root = [root], root.parent
    else:
        found = (path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        files = sorted(
            p for p in found if not any(part.startswith(".") for part in p.relative_to(root).parts)
        )
    check(bool(files), "folder", f"{root} without such files", f"files that end in {', '.join(SUFFIXES)}")
    documents = {}
    for path in files:
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"folder: got {path}, which is no UTF-8 ({error.reason}), expected text"
            ) from error
        documents[path.relative_to(root).as_posix()] = text
    return documents


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    """Spans of paragraphs: between blank lines, and each Markdown heading, list item or table row alone."""
    start = 0
    for gap in [*_PARAGRAPH.finditer(text), None]:
        end = gap.start() if gap else len(text)
        cuts = sorted({start, end} | {m.start() for m in _BLOCK_LINE.finditer(text, start, end)})
        for left, right in pairwise(cuts):
            # A heading ends with its line; a list item may run on over several.
            line = text.find("\n", left, right)
            if line >= 0 and text[left:line].lstrip().startswith("#"):
                yield left, line
                left = line
            yield left, right
        start = gap.end() if gap else end


def _sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    start = _MARKER.match(text, start, end).end()
    for match in _BREAK.finditer(text, start, end):
        if _ends(text, start, match, end):
            yield from _trimmed(text, start, match.end())
            start = match.end()
    yield from _trimmed(text, start, end)


def _trimmed(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    piece = text[start:end]
    if not _RULE.match(piece):
        yield start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())


def _ends(text: str, start: int, match: re.Match, end: int) -> bool:
    """Whether the stop at `match` ends a sentence."""
    following = text[match.end() : min(end, match.end() + 40)].lstrip()
    if not following or match[0][0] in "。！？":
        return True
    upper = following.lstrip("\"'“‘([«")[:1]
    if upper.islower():
        return False  # “approx. five”, “asked ‘why?’ twice”
    if match[0][0] != ".":
        return True
    word = re.search(r"[^\s(\[\"“‘]*$", text[start : match.start()])[0]
    lowered = word.lower()
    if lowered in _TITLES and not (lowered == "no" and not following[:1].isdigit()):
        return False
    next_word = re.match(r"\W*(\w*)", following)[1]
    starts_anew = next_word.lower() in _STARTERS and next_word[:1].isupper()
    if len(word) == 1 and word.isalpha() and word.isupper():
        return starts_anew and word != "I"  # initials: “J. R. Tolkien”, but “vitamin C. The …”
    if lowered in _ABBREVIATIONS or re.fullmatch(r"(?:\w\.)+\w", word):
        return starts_anew
    return True
