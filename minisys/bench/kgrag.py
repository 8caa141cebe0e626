"""``minisys bench kgrag``: retrieval methods on multi-hop questions, with intervals; answers; abstention.

Sets: the generated world always; HotpotQA and MuSiQue where the environment variable MINISYS_MULTIHOP names
the folder of their files (`minisys.bench.kgrag_sets.FILES`). Every method gets the same vectors, the same
triples and a budget of 10 chunks, or 3; gains are over dense retrieval with as many, on the same questions,
with a paired bootstrap. The language model reranks the public sets only: it reads 40 chunks for each
question. The time of a query starts when the question is embedded; a text that an earlier question had
reranked by cosine is not embedded again. Rows that the language model reranks have no times: it reads a text
once for all methods.

Abstention: half of the world's questions decide the confidence from which an answer is given, the other half
says how often that is right.

Each finished method is kept in ``NAME.outcomes.partial`` beside the result file; a run that was stopped, or
whose minutes were used up, goes on from there if the code is the same.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from minisys.bench import results
from minisys.bench.harness import say, source_hash
from minisys.bench.kgrag_sets import Prepared, data_folder, drop_triples, prepare, question_sets
from minisys.core.checks import check_choice
from minisys.core.files import read_json, write_json
from minisys.kgrag import answering
from minisys.kgrag.answering import POOL, answer, best_threshold
from minisys.kgrag.evaluate import Outcome, by_kind, compare, evaluate
from minisys.kgrag.metrics import answer_f1
from minisys.kgrag.reading import WordSupport
from minisys.kgrag.types import Embedder, Reranker

DEVICES = ("cpu",)  # where retrieval is meant to run
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
        for name in ("dense+rerank", "hybrid+rerank", "kg2rag", "kg2rag-paper")
    ),
    *(Variant(f"{name}, k = {FEW}", {"method": name}, k=FEW) for name in ("dense", "hybrid", "kg2rag")),
    *(
        Variant(f"{name}, language model reranks, k = {FEW}", {"method": name}, reranked=True, k=FEW)
        for name in ("dense+rerank", "kg2rag", "kg2rag-paper")
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


def run(
    command: str,
    *,
    quick: bool = False,
    device: str = "cpu",
    out: Path | None = None,
    minutes: float = 60.0,
    data: Path | None = None,
    embedder: Embedder | None = None,
    echo: Callable[[str], object] = say,
) -> int:
    """Measure, print the table and write the result file; 0, or 1 where minutes did not suffice.

    Args:
        command: what a reader types to measure again, for the result file.
        quick: a small world, 25 questions of each public set, no language model.
        device: one of `DEVICES`.
        out: folder of the result file; the checkout's ``benchmarks/results`` unless given.
        minutes: no method is started after them.
        data: folder of the public files, instead of the environment variable.
        embedder: another one than the default.

    Raises ValueError for a bad argument, before anything is written.
    """
    from minisys.kgrag.embedding import embedder_for

    check_choice("device", device, DEVICES)
    name = "kgrag-quick" if quick else "kgrag"
    target = results.writable_target(name, out)
    sets = question_sets(data_folder(data), quick=quick)
    embedder = embedder or embedder_for()
    kept = _Kept(target.with_name(f"{name}.outcomes.partial"), embedder.name)
    started, late = time.monotonic(), []
    support, reranker = WordSupport(embedder), None
    payload: dict = {
        "answered_from": POOL,
        "baseline": {str(k): name for k, name in BASELINE.items()},
        "sets": {},
        "rows": [],
        "by_kind": {},
    }
    for set_name, questions in sets.items():
        prepared = prepare(questions, embedder)
        payload["sets"][set_name] = prepared.about
        echo(f"{set_name}: {prepared.about}")
        outcomes = []
        variants = QUICK if quick else VARIANTS
        for variant in variants:
            if variant.reranked and set_name == "world":
                continue
            key = f"{set_name}: {variant.name}"
            if key not in kept.outcomes:
                if time.monotonic() - started > 60 * minutes:
                    late.append(key)
                    continue
                if variant.reranked and reranker is None:
                    reranker = _language_model()
                kept.add(key, measure(prepared, variant, support, reranker if variant.reranked else None))
            outcomes.append(kept.outcomes[key])
            echo(_line(outcomes[-1]))
        chunks = {variant.name: variant.k for variant in variants}
        for k, baseline in BASELINE.items():
            same = [outcome for outcome in outcomes if chunks[outcome.method] == k]
            if all(outcome.method != baseline for outcome in same):
                continue  # not measured yet, or not asked for
            payload["rows"] += [{"set": set_name, "k": k} | row for row in compare(same, baseline)]
        payload["by_kind"][set_name] = {
            outcome.method: by_kind(outcome, questions, "recall") for outcome in outcomes
        }
        if set_name == "world":
            payload["abstention"] = measure_abstention(prepared, support)
            echo(f"abstention: {payload['abstention']}")
    if not quick:
        payload["speed"] = measure_speed()
        echo(f"at the size of the paper's corpus: {payload['speed']}")
    path = results.save(name, payload, command, target.parent)
    if late:
        echo(f"the {minutes:g} minutes were used up: the same command measures the {len(late)} rows left")
    else:
        kept.path.unlink(missing_ok=True)
    echo(f"written: {path}")
    return 1 if late else 0


def measure_speed() -> dict:
    """Milliseconds of a question at the size of the paper's corpus, and against networkx."""
    from minisys.bench.kgrag_speed import measure_against_networkx, measure_queries, synthetic_corpus

    corpus = synthetic_corpus()
    counts = {
        "documents": corpus.graph.num_chunks,
        "triples": len(corpus.graph.relations),
        "entities": len(corpus.graph.entities),
    }
    speeds = {name: measure_queries(corpus, name) for name in ("dense", "hybrid", "kg2rag", "kg2rag-paper")}
    return counts | speeds | {"networkx": measure_against_networkx(corpus.graph)}


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


@dataclass(frozen=True)
class _Asked:
    """A question of the world after it was answered without a threshold."""

    kind: str
    answerable: bool
    right: bool
    confidence: float


def measure_abstention(prepared: Prepared, support: WordSupport, method: str = "kg2rag") -> dict:
    """Fit the threshold on one half of the questions, and measure it on the other.

    Every other question of each kind is in the first half. The fit keeps right answers (F1 of the short one
    above 0.5) and declines what the corpus does not hold. Also measured, on the second half: the threshold
    that the package ships.
    """
    from minisys.kgrag.retrieve import Retriever

    retriever = Retriever(prepared.corpus, prepared.embedder)
    seen: dict[str, int] = {}
    halves: tuple[list[_Asked], list[_Asked]] = ([], [])
    for question in prepared.questions.questions:
        number = seen[question.kind] = seen.get(question.kind, -1) + 1
        found = retriever.retrieve(question.text, method, k=POOL, vector=prepared.vectors[question.id])
        given = answer(question.text, prepared.corpus, found.chunks, support, threshold=0)
        right = question.answerable and answer_f1(given.short, question.answers) > 0.5
        halves[number % 2].append(_Asked(question.kind, question.answerable, right, given.confidence))
    decided = [one for one in halves[0] if one.right or not one.answerable]
    fitted = best_threshold([one.confidence for one in decided], [one.right for one in decided])
    row = {"method": method, "questions_fitted": len(halves[0]), "questions_measured": len(halves[1])}
    for name, threshold in (("fitted", fitted), ("shipped", answering.THRESHOLD)):
        row[name] = {"threshold": threshold} | _shares(halves[1], threshold)
    return row | {"auc": _auc(halves[1])}


def _shares(half: Sequence[_Asked], threshold: float) -> dict:
    """Shares of questions answered and declined, by kind, and of answers that are right."""
    given = [one for one in half if one.confidence >= threshold]
    groups = {
        "answered": [one for one in half if one.answerable],
        "kept_right": [one for one in half if one.right],
    }
    shares = {name: _share(given, group) for name, group in groups.items()}
    shares["right_among_answered"] = sum(one.right for one in given) / max(1, len(given))
    without = [one for one in half if not one.answerable]
    shares["declined"] = 1 - _share(given, without)
    for kind in dict.fromkeys(one.kind for one in without):
        shares[f"declined_{kind}"] = 1 - _share(given, [one for one in without if one.kind == kind])
    return shares


def _share(given: Sequence[_Asked], group: Sequence[_Asked]) -> float:
    inside = {id(one) for one in given}
    return sum(id(one) in inside for one in group) / max(1, len(group))


def _auc(half: Sequence[_Asked]) -> float:
    """How often an answerable question has the higher confidence of a pair; a tie counts half."""
    yes = np.array([one.confidence for one in half if one.answerable])
    no = np.array([one.confidence for one in half if not one.answerable])
    return float((np.sign(yes[:, None] - no) / 2 + 0.5).mean())


def _language_model() -> Reranker:
    from minisys.kgrag.rerank import QueryLikelihood, Remembering

    return Remembering(QueryLikelihood())  # methods and ablations mostly read the same chunks


class _Kept:
    """Outcomes of an earlier run of the same code, and of this one."""

    def __init__(self, path: Path, embedder: str) -> None:
        self.path, self.run = path, {"source": source_hash(), "embedder": embedder}
        self.outcomes: dict[str, Outcome] = {}
        if path.is_file():
            held = read_json(path)
            if isinstance(held, dict) and held.get("run") == self.run:
                self.outcomes = {key: _outcome(row) for key, row in held["outcomes"].items()}

    def add(self, key: str, outcome: Outcome) -> None:
        self.outcomes[key] = outcome
        rows = {
            name: {"method": one.method, "questions": one.questions, "contexts": one.contexts,
                   "values": one.values}
            for name, one in self.outcomes.items()
        }  # fmt: skip
        write_json(self.path, {"run": self.run, "outcomes": rows})


def _outcome(row: dict) -> Outcome:
    contexts = tuple(map(tuple, row["contexts"]))
    return Outcome(row["method"], tuple(row["questions"]), contexts, row["values"])


def _line(outcome: Outcome) -> str:
    shown = {name: np.mean(outcome.values[name]) for name in ("precision", "recall", "f1")}
    text = "  ".join(f"{name} {value:.3f}" for name, value in shown.items())
    if "answer_f1" in outcome.values:
        text += f"  answer F1 {np.mean(outcome.values['answer_f1']):.3f}"
    if "ms" in outcome.values:
        text += f"  {np.median(outcome.values['ms']):.1f} ms"
    return f"  {outcome.method:<38} {text}"
