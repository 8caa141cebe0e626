"""``minisys bench kgrag``: retrieval methods on multi-hop questions, with intervals; answers; abstention.

Sets: the generated world always; HotpotQA and MuSiQue where the environment variable MINISYS_MULTIHOP names
the folder of their files (`minisys.bench.kgrag_sets.FILES`), each also with entities in each other's places.
Every method gets the same vectors, the same triples and a budget of 10 chunks, or 3; gains are over dense
retrieval with as many, on the same questions, with a paired bootstrap. The language model reranks the public
sets only: it reads 40 chunks for each question. It also writes answers, alone and from 3 chunks
(`minisys.bench.kgrag_answers`); there, gains are over its answers from dense retrieval.

The time of a query starts when the question is embedded; a text that an earlier question had reranked by
cosine is not embedded again. Rows that the language model reranks have no times, for it reads a text once for
all methods; how long it reads is measured apart (``reading``).

Each finished row is kept in ``NAME.outcomes.partial`` beside the result file; a run that was stopped, or
whose minutes were used up, goes on from there if the code is the same.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from minisys.bench import results
from minisys.bench.harness import say, source_hash
from minisys.bench.kgrag_abstention import measure_abstention
from minisys.bench.kgrag_answers import ALONE, GOLD, Writer, changes, gold_contexts, measure_written, reads
from minisys.bench.kgrag_methods import BASELINE, FEW, QUICK, SHUFFLED, VARIANTS, WRITTEN, Variant, measure
from minisys.bench.kgrag_sets import Prepared, data_folder, prepare, prepare_shuffled, question_sets
from minisys.core.checks import check_choice
from minisys.core.files import read_json, write_json
from minisys.kgrag.answering import POOL
from minisys.kgrag.evaluate import Outcome, by_kind, compare
from minisys.kgrag.reading import WordSupport
from minisys.kgrag.rerank import QueryLikelihood, Remembering
from minisys.kgrag.types import Embedder, Reranker
from minisys.kgrag.world import make_world

DEVICES = ("cpu",)  # where retrieval is meant to run


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
        quick: a small world, 25 questions of each public set, no language model, nothing shuffled.
        device: one of `DEVICES`.
        out: folder of the result file; the checkout's ``benchmarks/results`` unless given.
        minutes: no row is started after them.
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
    session = Session(target.with_name(f"{name}.outcomes.partial"), embedder, minutes, echo)
    table = Table()
    further: dict = {}
    for set_name, questions in sets.items():
        prepared = prepare(questions, embedder)
        variants = QUICK if quick else VARIANTS
        if set_name == "world":
            fresh = prepare(make_world(1, 100 if quick else 404).questions, embedder)
            further["abstention"] = measure_abstention(prepared, fresh, session.support)
            variants = tuple(variant for variant in variants if not variant.reranked)
        found = measure_set(session, set_name, prepared, variants, answers=not quick)
        table.add(set_name, prepared, found)
        if set_name != "world" and not quick:
            further.setdefault("reading", {})[set_name] = measure_reading(prepared, session.models.likelihood)
            twin = prepare_shuffled(prepared)
            swapped = measure_set(session, f"{set_name}-shuffled", twin, SHUFFLED, answers=True)
            table.add(f"{set_name}-shuffled", twin, swapped)
            further.setdefault("shuffled", {})[set_name] = changes(swapped, found)
    if not quick:
        further["speed"] = measure_speed()
        further["linking"] = measure_linking()
    for topic, measured in further.items():
        echo(f"{topic}: {measured}")
    path = results.save(name, {"answered_from": POOL} | table.payload() | further, command, target.parent)
    session.finish()
    echo(f"written: {path}")
    return 1 if session.late else 0


def measure_set(
    session: "Session", name: str, prepared: Prepared, variants: Sequence[Variant], *, answers: bool
) -> list[Outcome]:
    """The outcomes of `variants` on a set, and those of the language model's answers; fewer if time is up."""
    session.echo(f"{name}: {prepared.about}")
    found = []
    for variant in variants:

        def retrieve(variant: Variant = variant) -> Outcome:
            reranker = session.models.reranker if variant.reranked else None
            return measure(prepared, variant, session.support, reranker)

        found += session.outcome(f"{name}: {variant.name}", retrieve)
    if answers:
        gold = gold_contexts(prepared)
        contexts: dict[str, Mapping] = {ALONE: dict.fromkeys(gold, ()), GOLD: gold}
        contexts |= {
            reads(one.method): dict(zip(one.questions, one.contexts, strict=True))
            for one in found
            if one.method in WRITTEN
        }
        for row, shown in contexts.items():

            def write(row: str = row, shown: Mapping = shown) -> Outcome:
                return measure_written(row, prepared, shown, session.models.write)

            found += session.outcome(f"{name}: {row}", write)
    return found


def measure_speed() -> dict:
    """A question and an index at the size of the paper's corpus, and at four chunks a document."""
    from minisys.bench.kgrag_index import measure_index
    from minisys.bench.kgrag_speed import measure_against_networkx, measure_queries, synthetic_corpus

    found: dict = {}
    for sentences in (1, 4):
        corpus = synthetic_corpus(sentences=sentences)
        speeds: dict = {
            method: measure_queries(corpus, method)
            for method in ("dense", "hybrid", "pagerank", "kg2rag", "kg2rag-paper")
        }
        if sentences == 1:
            speeds["networkx"] = measure_against_networkx(corpus.graph)
        found[f"chunks_a_document_{sentences}"] = (
            {"entities": len(corpus.graph.entities)} | speeds | {"index": measure_index(corpus)}
        )
    return found


def measure_reading(prepared: Prepared, reranker: Reranker, questions: int = 10) -> dict:
    """Milliseconds that a reranker takes for the 40 chunks of a question."""
    from minisys.kgrag.retrieve import Retriever

    retriever, spent = Retriever(prepared.corpus, prepared.embedder, reranker), []
    for question in prepared.questions.questions[: questions + 1]:
        found = retriever.retrieve(question.text, vector=prepared.vectors[question.id])
        spent.append(found.milliseconds["rerank"])
    times = spent[1:]  # the first one warms up
    return {"reranker": reranker.name, "questions": len(times), "median_ms": float(np.median(times))}


def measure_linking() -> dict:
    """How often two mentions are linked wrongly, on the pairs that come with the package."""
    from minisys.kgrag.link_errors import labelled_pairs, link_errors

    pairs, texts = labelled_pairs()
    errors = link_errors(pairs, texts)
    counts = {name: getattr(errors, name) for name in ("same", "different", "missed", "merged")}
    return counts | {"wrong_percent": 100 * errors.rate}


class Table:
    """The rows of the result file."""

    def __init__(self) -> None:
        self.sets: dict[str, dict] = {}
        self.rows: dict[str, dict] = {}
        self.kinds: dict[str, dict] = {}

    def add(self, name: str, prepared: Prepared, outcomes: Sequence[Outcome]) -> None:
        """Compare the outcomes of a set with dense retrieval of as many chunks, or with answers from it."""
        budgets = {variant.name: variant.k for variant in VARIANTS}
        groups = {
            dense: [one for one in outcomes if budgets.get(one.method) == k] for k, dense in BASELINE.items()
        }
        groups[reads(BASELINE[FEW])] = [one for one in outcomes if one.method not in budgets]
        for baseline, group in groups.items():
            if all(one.method != baseline for one in group):
                continue  # not measured yet, or not asked for
            for row in compare(group, baseline):
                k = budgets.get(row["method"], 0 if row["method"] == ALONE else FEW)
                about = {"set": name, "k": k, "baseline": baseline}
                self.rows[f"{name}: {row['method']}"] = about | row
        self.sets[name] = prepared.about
        self.kinds[name] = {
            one.method: by_kind(one, prepared.questions, "recall")
            for one in outcomes
            if "recall" in one.values
        }

    def payload(self) -> dict:
        return {"sets": self.sets, "rows": self.rows, "by_kind": self.kinds}


@dataclass(frozen=True)
class Models:
    """What a language model does here: score, score and remember, write."""

    likelihood: QueryLikelihood
    reranker: Remembering  # methods and ablations mostly read the same chunks
    write: Writer


class Session:
    """One run: what it has measured, or an earlier run of the same code; the time left; the models.

    Attributes:
        late: rows that are not measured because the minutes were used up.
    """

    def __init__(self, path: Path, embedder: Embedder, minutes: float, echo: Callable[[str], object]) -> None:
        self.path, self.minutes, self.echo = path, minutes, echo
        self.support = WordSupport(embedder)
        self.late: list[str] = []
        self._run = {"source": source_hash(), "embedder": embedder.name}
        self._started = time.monotonic()
        self._outcomes: dict[str, Outcome] = {}
        held = read_json(path) if path.is_file() else None
        if isinstance(held, dict) and held.get("run") == self._run:
            self._outcomes = {key: _outcome(row) for key, row in held["outcomes"].items()}

    @cached_property
    def models(self) -> Models:
        likelihood = QueryLikelihood()
        writer = Writer(likelihood.model, likelihood.tokenizer)
        return Models(likelihood, Remembering(likelihood), writer)

    def outcome(self, key: str, make: Callable[[], Outcome]) -> list[Outcome]:
        """The outcome named `key`, made and kept unless it is known; none where the time is up."""
        if key not in self._outcomes:
            if time.monotonic() - self._started > 60 * self.minutes:
                self.late.append(key)
                return []
            self._outcomes[key] = make()
            rows = {
                name: {"method": one.method, "questions": one.questions, "contexts": one.contexts,
                       "values": one.values}
                for name, one in self._outcomes.items()
            }  # fmt: skip
            write_json(self.path, {"run": self._run, "outcomes": rows})
        self.echo(_line(self._outcomes[key]))
        return [self._outcomes[key]]

    def finish(self) -> None:
        """Say what is left to measure, or clean up."""
        if self.late:
            left = f"the same command measures the {len(self.late)} rows left"
            self.echo(f"the {self.minutes:g} minutes were used up: {left}")
        else:
            self.path.unlink(missing_ok=True)


def _outcome(row: dict) -> Outcome:
    contexts = tuple(map(tuple, row["contexts"]))
    return Outcome(row["method"], tuple(row["questions"]), contexts, row["values"])


def _line(outcome: Outcome) -> str:
    names = ("precision", "recall", "f1", "exact_match", "answer_f1")
    shown = [f"{name} {np.mean(outcome.values[name]):.3f}" for name in names if name in outcome.values]
    if "ms" in outcome.values:
        shown.append(f"{np.median(outcome.values['ms']):.1f} ms")
    return f"  {outcome.method:<54} {'  '.join(shown)}"
