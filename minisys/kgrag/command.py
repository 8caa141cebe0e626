"""``minisys rag index PATH`` and ``minisys rag ask "…"``: questions about a folder of text, with citations.

The index is one file, ``minisys.sqlite`` in the current folder unless ``--index`` names another. The models
used by default come with the extra ``rag`` and need no network. What goes wrong with an argument or a file
is a ValueError, which the command line shows as one line with exit status 2.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minisys.core.checks import check, check_positive_int
from minisys.core.files import write_atomic

if TYPE_CHECKING:
    from minisys.kgrag.answering import Answer

INDEX = Path("minisys.sqlite")
app = typer.Typer(no_args_is_help=True, help="Ask a folder of text: answers with citations, offline.")
IndexOption = Annotated[Path, typer.Option("--index", help="the index file")]


@app.callback()
def main() -> None:
    pass


@app.command()
def index(
    path: Annotated[Path, typer.Argument(help="a folder of text or Markdown files, or one file")],
    index: IndexOption = INDEX,
    embedder: Annotated[str, typer.Option(help="embedding model: a name or a folder")] = "all-MiniLM-L6-v2",
    prune: Annotated[bool, typer.Option("--prune", help="forget documents that PATH lacks")] = False,
) -> None:
    """Read the documents below PATH into an index; run again, it reads what is new or changed."""
    from minisys.kgrag.build import build_index
    from minisys.kgrag.chunking import read_folder
    from minisys.kgrag.embedding import embedder_for
    from minisys.kgrag.parsing import ParseExtractor
    from minisys.kgrag.store import Store

    documents = read_folder(path)
    if index.is_file() and index.stat().st_size > 0:
        Store.read(index).close()  # a file that is no index is refused before a model is loaded
    held = build_index(index, documents, embedder_for(embedder), ParseExtractor(), prune=prune, progress=True)
    counted = ", ".join(f"{count:,} {name}" for name, count in held.items())
    typer.echo(f"{index}: {counted}")


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="a question in words", show_default=False)],
    index: IndexOption = INDEX,
    k: Annotated[
        int | None, typer.Option("--chunks", help="sentences to answer from; 40, or 10 for a model")
    ] = None,
    m: Annotated[int, typer.Option("--hops", help="hops from the first sentences found")] = 1,
    method: Annotated[str, typer.Option(help="retrieval method")] = "kg2rag",
    model: Annotated[
        str | None, typer.Option(help="write the answer with this model: a name, a folder or a .gguf file")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="write the evidence graph to this .svg file")] = None,
) -> None:
    """Answer a question from the index, citing file and sentence, or say that the index does not hold it."""
    from minisys.kgrag.answering import POOL, answer
    from minisys.kgrag.embedding import embedder_for
    from minisys.kgrag.picture import draw_evidence
    from minisys.kgrag.retrieve import Retriever
    from minisys.kgrag.store import Store

    check(bool(question.strip()), "question", repr(question), "a question")
    k = k if k is not None else (POOL if model is None else 10)
    check_positive_int("chunks", k)
    check(m >= 0, "hops", m, "0 or more")
    if picture is not None:
        check(picture.suffix == ".svg", "picture", f"{picture}", "a name that ends in .svg")
    check(index.exists(), "index", f"{index}, which is not there", "a file that `minisys rag index` wrote")
    with Store.read(index) as store:
        corpus, name = store.load(), store.meta["embedder"]
    check(len(corpus.chunks) > 0, "index", f"{index} without documents", "some: `minisys rag index PATH`")
    embedder = embedder_for(name)
    evidence = Retriever(corpus, embedder).retrieve(question, method, k=k, hops=m)
    if model is None:
        found = answer(question, corpus, evidence.chunks, embedder)
    else:
        from minisys.kgrag.generation import generate_answer, language_model

        found = generate_answer(question, corpus, evidence.chunks, language_model(model))
    typer.echo(render(found))
    if picture is not None:
        cited = [cite.chunk for sentence in found.sentences for cite in sentence.citations]
        write_atomic(picture, draw_evidence(question, corpus, evidence.chunks, cited).encode())
        typer.echo(f"picture: {picture}")


def render(found: "Answer") -> str:
    """The answer as lines: the short answer, its sentences, what they cite."""
    if not found.found:
        return found.text
    numbers: dict = {}
    lines = [found.short] if found.short else []
    for sentence in found.sentences:
        marks = "".join(f"[{numbers.setdefault(cite, len(numbers) + 1)}]" for cite in sentence.citations)
        lines.append(f"{sentence.text} {marks}")
    lines += [f"[{number}] {cite.document}, sentence {cite.sentence + 1}" for cite, number in numbers.items()]
    return "\n".join(lines)
