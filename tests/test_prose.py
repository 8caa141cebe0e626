"""The prose check finds each kind of defect in a small repository of its own."""

import importlib.util
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from minisys.core.data import CORPUS_VERSION

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("tools_prose", ROOT / "tools" / "prose.py")
prose = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prose)

GOOD = """\
# Read me

See [the page](book/page.md), [its second part](book/page.md#a-second-part-12), [above](#read-me),
![a picture](book/a%20b.svg "title") and <https://example.org/a_(b>.
`[not](a-link.md)`

```shell
open [not](a-link.md) http://example.org
```

```{note}
[a folder](book)
```
"""


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    (tmp_path / "book").mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "book" / "page.md").write_text("(label)=\n# A page\n\n## A second part: `1.2`\n\n[](label)\n")
    (tmp_path / "book" / "a b.svg").write_text("<svg/>")
    (tmp_path / "README.md").write_text(GOOD)
    (tmp_path / "notebooks" / "one.py").write_text(
        "# %% [markdown]\n# [page](../book/page.md)\n\n# %%\na[0](b)\n"
    )
    return tmp_path


def check(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["prose.py", *arguments])
    return prose.main()


def test_good_prose_passes(repository, monkeypatch, capsys):
    assert check(monkeypatch) == 0
    assert capsys.readouterr().out == "8 links are well formed\n"


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("README.md", "[x](book/pages.md)", "README.md:1: book/pages.md does not exist"),
        (
            "README.md",
            "\n[x](book/page.md#b)",
            "README.md:2: book/page.md#b names no heading of book/page.md",
        ),
        ("README.md", "[x](#b)", "README.md:1: #b names no heading of README.md"),
        ("README.md", "[x](../secret.md)", "README.md:1: ../secret.md leads out of the repository"),
        ("README.md", "[x](_build/html/index.html)", "_build/html/index.html leads out of the repository"),
        ("README.md", "[![x](book/a%20b.svg)](gone.md)", "README.md:1: gone.md does not exist"),
        ("README.md", "[x]\n\n[x]: gone.md", "README.md:3: gone.md does not exist"),
        ("README.md", '<img src="gone.png">', "README.md:1: gone.png does not exist"),
        ("README.md", "```{note}\n[x](gone.md)\n```\n", "README.md:2: gone.md does not exist"),
        ("README.md", "see http://example.org/a.", "http://example.org/a is no address"),
        ("README.md", "[x](https://example)", "https://example is no address"),
        ("README.md", "[x](htps://example.org)", "htps://example.org is no address"),
        ("README.md", "[x](mailto:me@here)", "mailto:me@here is no address"),
        ("notebooks/one.py", "# %% [markdown]\n# [x](page.md)", "notebooks/one.py:2: page.md does not exist"),
        ("book/some.bib", "url = {http://example.org}", "book/some.bib:1: http://example.org is no address"),
    ],
)
def test_a_bad_link_is_found(repository, monkeypatch, capsys, file, text, expected):
    (repository / file).write_text(text)
    assert check(monkeypatch) == 1
    assert [line for line in capsys.readouterr().out.splitlines() if expected in line]


@pytest.mark.parametrize("file", ["README.md", "book/page.md", "notebooks/one.py", "tools/a.py"])
def test_a_misspelling_is_found(repository, monkeypatch, capfd, file):
    (repository / file).parent.mkdir(exist_ok=True)
    (repository / file).write_text("# It will occ" + "ured again\n")
    assert check(monkeypatch) == 1
    assert f"{file}:1: occ" + "ured ==> occurred" in capfd.readouterr().out


def test_the_network_is_asked_only_on_request(repository, monkeypatch, capsys):
    """A server on this machine stands in for the outside."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(repository))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert prose.ask(f"{address}/README.md") == ""
        assert prose.ask(f"{address}/gone.md") == "HTTP Error 404: File not found"
        server.shutdown()
    asked = []
    monkeypatch.setattr(prose, "ask", lambda address: asked.append(address) or "no answer")
    assert check(monkeypatch) == 0
    assert asked == []
    assert check(monkeypatch, "--network") == 1
    assert asked == ["https://example.org/a_(b"]
    assert "README.md:4: https://example.org/a_(b: no answer" in capsys.readouterr().out


def test_the_cell_for_hosted_notebooks_installs_the_corpus():
    text = (ROOT / "book" / "how_to_run.md").read_text(encoding="utf-8")
    assert f'%pip install --quiet minisys-*.whl "sympy=={CORPUS_VERSION}"\n' in text
