"""Check the prose: its spelling with codespell, and its links.

    python tools/prose.py              spelling, links inside the repository, form of links to the outside
    python tools/prose.py --network    also ask every address on the outside whether it answers

Spelling is codespell's list of common mistakes, over documents, notebook sources and docstrings. Links are
those of documents and of notebooks' Markdown cells, outside code. Labels of the book's own pages are left to
the strict build, which knows them.
"""

import argparse
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ["*.md", "book/*.md", "book/*.yml", "book/*.bib", "notebooks/*.py", "assignments/**/*.md"]
SPELLED = [*DOCUMENTS, "book/_ext/*.py", "minisys/**/*.py", "assignments/**/*.py", "tools/*.py"]
# Words, invented names and syllables of names that codespell takes for misspelt and that are right here.
NO_MISTAKES = ["empress", "mor", "nd", "ond", "pres", "sav", "zar"]
BUILT = ("_build", ".venv", "runs")  # folders that a clone does not hold

FENCE = re.compile(r"\s*(`{3,}|~{3,}|:{3,})\s*(.*)")
TARGET = re.compile(r"""\]\(<?([^)\s>]+)|^\[[^\]^]+\]:\s+(\S+)|\b(?:src|href)="([^"]+)\"""")
ADDRESS = re.compile(r"\b\w+://[^\s<>\"'`)\]}]+")


def main() -> int:
    parser = argparse.ArgumentParser(description="Check spelling and links.")
    parser.add_argument("--network", action="store_true", help="also ask the addresses on the outside")
    arguments = parser.parse_args()
    links = [link for file in files(DOCUMENTS) for link in read_links(file)]
    problems = [problem for file, line, target in links for problem in check_link(file, line, target)]
    if arguments.network:
        problems += dead_addresses(links)
    print("\n".join(problems) if problems else f"{len(links)} links are well formed")
    return 0 if spelling() and not problems else 1


def files(patterns: list[str]) -> list[Path]:
    found = {path for pattern in patterns for path in ROOT.glob(pattern)}
    return sorted(path for path in found if not path.relative_to(ROOT).parts[0].startswith("."))


def spelling() -> bool:
    command = [sys.executable, "-m", "codespell_lib", "--ignore-words-list", ",".join(NO_MISTAKES)]
    names = [str(path.relative_to(ROOT)) for path in files(SPELLED)]
    return subprocess.run([*command, *names], cwd=ROOT).returncode == 0


def read_links(file: Path) -> Iterator[tuple[Path, int, str]]:
    """(file, line number, target) of each link in a document or in the Markdown cells of a notebook."""
    for number, line in prose_lines(file):
        shown = re.sub(r"`[^`]*`", "", line)
        targets = {next(filter(None, groups)) for groups in TARGET.findall(shown)}
        targets |= {address.rstrip(".,;:") for address in ADDRESS.findall(shown)}
        yield from ((file, number, target) for target in sorted(targets))


def prose_lines(file: Path) -> Iterator[tuple[int, str]]:
    """(line number, line) outside fenced code; a fence that opens a directive holds prose."""
    open_fences: list[tuple[str, bool]] = []  # the fence and whether code stands in it
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if file.suffix == ".py":
            if not line.startswith("# ") or line.startswith("# %%"):
                continue
            line = line[2:]
        fence = FENCE.match(line)
        if fence and open_fences and not fence[2] and fence[1].startswith(open_fences[-1][0]):
            open_fences.pop()
        elif fence and not (open_fences and open_fences[-1][1]):
            open_fences.append((fence[1], not fence[2].startswith("{")))
        elif not (open_fences and open_fences[-1][1]):
            yield number, line


def check_link(file: Path, line: int, target: str) -> Iterator[str]:
    place = f"{file.relative_to(ROOT)}:{line}"
    if "://" in target or target.startswith("mailto:"):
        if not well_formed(target):
            yield f"{place}: {target} is no address of the form https://host.name/…"
        return
    path, _, fragment = target.partition("#")
    if file.parent != ROOT and "." not in path and "/" not in path:
        return  # a label of the book
    aim = (file.parent / unquote(path)).resolve() if path else file
    if not aim.is_relative_to(ROOT) or aim.relative_to(ROOT).parts[:1] in [(name,) for name in BUILT]:
        yield f"{place}: {target} leads out of the repository"
    elif not aim.exists():
        yield f"{place}: {target} does not exist"
    elif fragment and aim.suffix == ".md" and fragment not in anchors(aim):
        yield f"{place}: {target} names no heading of {aim.relative_to(ROOT)}"


def well_formed(address: str) -> bool:
    """https with a host that has a dot; plain http on this machine; an e-mail address."""
    if address.startswith("mailto:"):
        return re.fullmatch(r"mailto:[\w.+-]+@[\w-]+(\.[\w-]+)+", address) is not None
    parts = urlsplit(address)
    if parts.scheme == "http":
        return parts.hostname in ("127.0.0.1", "localhost")
    return parts.scheme == "https" and re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.hostname or "") is not None


def anchors(document: Path) -> set[str]:
    """What a fragment can name: headings as hosting sites spell them, and labels."""
    found = set()
    for _, line in prose_lines(document):
        if heading := re.match(r"#+\s+(.*?)\s*$", line):
            found.add(re.sub(r"[^\w\- ]", "", heading[1].lower()).replace(" ", "-"))
        elif label := re.match(r"\(([\w-]+)\)=", line):
            found.add(label[1])
    return found


def dead_addresses(links: list[tuple[Path, int, str]]) -> list[str]:
    """Ask every https address once."""
    places = {target: f"{file.relative_to(ROOT)}:{line}" for file, line, target in links}
    asked = sorted(target for target in places if target.startswith("https://"))
    with ThreadPoolExecutor(8) as pool:
        answers = zip(asked, pool.map(ask, asked), strict=True)
        return [f"{places[address]}: {address}: {answer}" for address, answer in answers if answer]


def ask(address: str) -> str:
    """What is wrong with the answer of `address`, or nothing."""
    request = urllib.request.Request(address, headers={"User-Agent": "Mozilla/5.0 (link check)"})
    try:
        with urllib.request.urlopen(request, timeout=20):
            return ""
    except urllib.error.HTTPError as error:
        return "" if error.code in (403, 429) else str(error)  # those refuse programs, not readers
    except OSError as error:
        return str(error)


if __name__ == "__main__":
    sys.exit(main())
