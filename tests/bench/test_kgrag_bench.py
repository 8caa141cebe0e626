"""``minisys bench kgrag`` on a small world without a model: what it writes, resumes and refuses."""

import json

import numpy as np
import pytest

from minisys.bench import kgrag, kgrag_methods, kgrag_sets, results
from minisys.kgrag.datasets import load_hotpotqa
from minisys.kgrag.embedding import HashingEmbedder
from minisys.kgrag.entities import link_triples
from minisys.kgrag.reading import WordSupport
from minisys.kgrag.types import Corpus
from minisys.kgrag.world import make_world

pytest.importorskip("bm25s")
SOME = tuple(variant for variant in kgrag.QUICK if variant.name in ("dense", "bm25", "kg2rag"))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(kgrag, "QUICK", SOME)
    monkeypatch.setattr(kgrag, "measure_abstention", lambda *worlds: {"worlds": len(worlds) - 1})
    monkeypatch.delenv(kgrag_sets.DATA, raising=False)


def run(folder, **keywords):
    lines = []
    status = kgrag.run(
        "minisys bench kgrag --quick", quick=True, out=folder, embedder=HashingEmbedder(64),
        echo=lines.append, **keywords,
    )  # fmt: skip
    return status, lines


def test_result_file(tmp_path, monkeypatch):
    monkeypatch.setattr(kgrag, "QUICK", SOME)
    monkeypatch.delenv(kgrag_sets.DATA, raising=False)
    status, lines = run(tmp_path)
    assert status == 0
    assert [file.name for file in tmp_path.iterdir()] == ["kgrag-quick.json"]
    rows = results.rows("kgrag-quick", tmp_path)
    assert [row["method"] for row in rows] == ["dense", "bm25", "kg2rag"]
    assert {row["set"] for row in rows} == {"world"}
    assert results.value("kgrag-quick", "rows.world: kg2rag.f1_gain", tmp_path) == rows[2]["f1_gain"]
    for row in rows:
        assert 0 <= row["f1_low"] <= row["f1"] <= row["f1_high"] <= 1
        assert 5 < row["chunks"] <= 10  # BM25 finds fewer where few share a word
    assert "recall_gain_low" in rows[1]
    assert "answer_f1" in rows[2]
    assert "answer_f1" not in rows[1]
    held = results.value("kgrag-quick", "abstention", tmp_path)
    assert 0 <= held["fitted"]["declined"] <= 1
    assert results.value("kgrag-quick", "sets.world.documents", tmp_path) > 90
    assert any("dense" in line for line in lines)


def test_a_stopped_run_goes_on(small, tmp_path, monkeypatch):
    measured = []
    whole = kgrag.measure

    def stop_at_the_second(prepared, variant, *rest):
        if len(measured) == 1:
            raise KeyboardInterrupt
        measured.append(variant.name)
        return whole(prepared, variant, *rest)

    monkeypatch.setattr(kgrag, "measure", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["kgrag-quick.outcomes.partial"]

    def count(prepared, variant, *rest):
        measured.append(variant.name)
        return whole(prepared, variant, *rest)

    monkeypatch.setattr(kgrag, "measure", count)
    assert run(tmp_path)[0] == 0
    assert measured == ["dense", "bm25", "kg2rag"]


def test_a_public_set_without_its_files(small, tmp_path):
    with pytest.raises(ValueError, match=r"data: got .* without hotpotqa_train\.json"):
        run(tmp_path, data=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_devices(small, tmp_path):
    with pytest.raises(ValueError, match="device: got 'cuda', expected one of 'cpu'"):
        run(tmp_path, device="cuda")


def test_dropping_triples():
    questions = make_world(0, 100).questions
    chunks = questions.chunks()
    graph = link_triples(list(questions.triples), chunks)
    corpus = Corpus(chunks, np.eye(len(chunks), 8, dtype=np.float32), graph)
    fewer = kgrag_sets.drop_triples(corpus, 0.25).graph
    assert len(fewer.heads) == len(fewer.relations) == len(fewer.chunks)
    assert 0.65 < len(fewer.heads) / len(graph.heads) < 0.85
    assert kgrag_sets.drop_triples(corpus, 0).graph.relations == graph.relations
    with pytest.raises(ValueError, match="share: got 1"):
        kgrag_sets.drop_triples(corpus, 1)


def test_sets_without_triples_are_parsed(tmp_path):
    pytest.importorskip("spacy")
    rows = [{"_id": "1", "question": "Who taught Ira Sole?", "answer": "Ada Venn", "type": "bridge",
             "supporting_facts": [["Ira Sole", 0]],
             "context": [["Ira Sole", ["Ira Sole was taught by Ada Venn."]]]}]  # fmt: skip
    (tmp_path / "hotpot.json").write_text(json.dumps(rows))
    prepared = kgrag_sets.prepare(load_hotpotqa(tmp_path / "hotpot.json"), HashingEmbedder(64))
    assert {"Ira Sole", "Ada Venn"} <= set(prepared.corpus.graph.entities)
    assert prepared.about["triples_are"] == "parsed from the sentences"
    assert prepared.vectors["1"].shape == (64,)


def test_variants_are_told_apart():
    names = [variant.name for variant in kgrag.VARIANTS]
    assert len(set(names)) == len(names)
    assert {variant.k for variant in kgrag.VARIANTS} == set(kgrag.BASELINE)
    assert set(kgrag.BASELINE.values()) <= set(names)
    assert set(kgrag.WRITTEN) <= {variant.name for variant in kgrag.SHUFFLED} <= set(names)


def test_uncut_expansion_returns_all_that_was_found(small, tmp_path, monkeypatch):
    chosen = [v for v in kgrag.VARIANTS if v.name in ("dense", "kg2rag-paper, no organization") or v.uncut]
    monkeypatch.setattr(kgrag, "QUICK", tuple(chosen))
    assert run(tmp_path)[0] == 0
    rows = {row["method"]: row for row in results.rows("kgrag-quick", tmp_path)}
    assert rows["expansion, uncut"]["recall"] > rows["dense"]["recall"]
    assert rows["expansion, uncut"]["precision"] < rows["dense"]["precision"]


def test_rows_of_a_remembering_reranker_have_no_times(tmp_path):
    class Longest:
        name = "longest"

        def __call__(self, question, texts):
            return np.array([len(text) for text in texts], np.float32)

    embedder = HashingEmbedder(64)
    prepared = kgrag_sets.prepare(make_world(0, 100).questions, embedder)
    support = WordSupport(embedder)
    for reranked in (False, True):
        variant = kgrag_methods.Variant("dense+rerank", {"method": "dense+rerank"}, reranked=reranked)
        outcome = kgrag_methods.measure(prepared, variant, support, Longest())
        assert ("ms" in outcome.values) != reranked
        assert "recall" in outcome.values
        assert kgrag._line(outcome).endswith(" ms") != reranked
