"""The retrieval methods and ablations that ``minisys bench kgrag`` compares, and how one is run."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from minisys.bench.kgrag_sets import Prepared, drop_triples
from minisys.kgrag.answering import POOL, answer
from minisys.kgrag.evaluate import Outcome, evaluate
from minisys.kgrag.reading import WordSupport
from minisys.kgrag.types import Reranker

K = 10  # chunks of a context
FEW = 3  # of a short one: about as many as a question has supporting facts
BASELINE = {K: "dense", FEW: f"dense, k = {FEW}"}  # what a row of that many chunks is compared with
ANSWERED = ("dense", "hybrid", "kg2rag")  # methods whose POOL best chunks are also answered from


@dataclass(frozen=True)
class Variant:
    """A row: how `minisys.kgrag.retrieve.Retriever` is asked, for k chunks, and without which triples."""

    name: str
    settings: dict = field(default_factory=dict)
    reranked: bool = False  # by the language model; else by cosine, where a method reranks
    dropped: float = 0.0
    k: int = K
    uncut: bool = False  # all that was found, however many chunks; compared with K chunks of the baseline


VARIANTS = (
    *(Variant(name, {"method": name}) for name in ("dense", "bm25", "hybrid", "pagerank")),
    *(Variant(name, {"method": name}) for name in ("kg2rag-paper", "kg2rag-released", "kg2rag")),
    *(Variant(f"kg2rag, m = {m}", {"method": "kg2rag", "hops": m}) for m in (0, 2, 3)),
    Variant("kg2rag, no expansion", {"method": "kg2rag", "expansion": False}),
    Variant("kg2rag, no organization", {"method": "kg2rag", "organization": False}),
    Variant("kg2rag-paper, no expansion", {"method": "kg2rag-paper", "expansion": False}),
    Variant("kg2rag-paper, no organization", {"method": "kg2rag-paper", "organization": False}),
    Variant("expansion, uncut", {"method": "kg2rag-paper", "organization": False}, uncut=True),
    *(
        Variant(f"kg2rag, {share:.0%} of triples dropped", {"method": "kg2rag"}, dropped=share)
        for share in (0.05, 0.1, 0.25, 0.5)
    ),
    *(
        Variant(f"{name}, language model reranks", {"method": name}, reranked=True)
        for name in ("dense+rerank", "hybrid+rerank", "pagerank+rerank", "kg2rag", "kg2rag-paper")
    ),
    *(
        Variant(f"{name}, k = {FEW}", {"method": name}, k=FEW)
        for name in ("dense", "hybrid", "pagerank", "kg2rag")
    ),
    *(
        Variant(f"{name}, language model reranks, k = {FEW}", {"method": name}, reranked=True, k=FEW)
        for name in ("dense+rerank", "pagerank+rerank", "kg2rag", "kg2rag-paper")
    ),
    *(
        Variant(f"kg2rag, no {stage}, language model reranks{few}", asked, reranked=True, k=k)
        for few, k in (("", K), (f", k = {FEW}", FEW))
        for stage, asked in (
            ("organization", {"method": "kg2rag", "organization": False}),
            ("expansion", {"method": "kg2rag", "expansion": False}),
        )
    ),
)
QUICK = tuple(variant for variant in VARIANTS if not variant.reranked and not variant.dropped)
GROWN = f"kg2rag, language model reranks, k = {FEW}"
WRITTEN = (BASELINE[FEW], f"kg2rag, k = {FEW}", GROWN)  # rows from whose chunks the language model answers
SHUFFLED = tuple(variant for variant in VARIANTS if variant.name in ("dense", "kg2rag", *WRITTEN))


def measure(
    prepared: Prepared, variant: Variant, support: WordSupport, reranker: Reranker | None = None
) -> Outcome:
    """Run one method over a set; the methods in `ANSWERED` answer as well."""
    from minisys.kgrag.retrieve import Retriever

    corpus = drop_triples(prepared.corpus, variant.dropped) if variant.dropped else prepared.corpus
    retriever = Retriever(corpus, prepared.embedder, reranker)
    first = prepared.questions.questions[0]  # builds the indexes that this method needs

    def retrieve(question) -> Sequence[int]:
        vector = prepared.vectors[question.id]
        k = len(corpus.chunks) if variant.uncut else variant.k
        return retriever.retrieve(question.text, k=k, vector=vector, **variant.settings).chunks

    retrieve(first)
    given = None
    if variant.name in ANSWERED:

        def given(question, _):
            vector = prepared.vectors[question.id]
            found = retriever.retrieve(question.text, k=POOL, vector=vector, **variant.settings)
            return answer(question.text, corpus, found.chunks, support, threshold=0).short

    outcome = evaluate(variant.name, retrieve, prepared.questions, corpus, answer=given)
    if not variant.reranked:
        return outcome
    # What an earlier method had the language model read is remembered: these times are nobody's.
    return replace(outcome, values={name: x for name, x in outcome.values.items() if name != "ms"})
