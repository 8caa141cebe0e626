"""Rerankers; the language model only where its package is installed, compared with plain use of it."""

import numpy as np
import pytest

from minisys.kgrag.embedding import HashingEmbedder
from minisys.kgrag.rerank import (
    PROMPT_AFTER,
    PROMPT_BEFORE,
    CosineReranker,
    CrossEncoderReranker,
    QueryLikelihood,
    Remembering,
)
from minisys.kgrag.smollm import load_gguf_llama, smollm2_file

QUESTION = "Who wrote the novel Dune?"
TEXTS = [
    "Dune is a novel by Frank Herbert, an American writer.",
    "Bread is baked.",
    "Sand dunes are hills of sand.",
]


@pytest.fixture(scope="module")
def likelihood() -> QueryLikelihood:
    try:
        smollm2_file()
    except ValueError as error:
        pytest.skip(str(error))
    return QueryLikelihood(batch_size=2)


def test_cosine():
    reranker = CosineReranker(HashingEmbedder(128))
    embed = HashingEmbedder(128)
    expected = embed(TEXTS) @ embed([QUESTION])[0]
    np.testing.assert_allclose(reranker(QUESTION, TEXTS), expected, rtol=1e-6)
    assert reranker(QUESTION, []).shape == (0,)


def test_likelihood_prefers_the_text_that_answers(likelihood):
    scores = likelihood(QUESTION, TEXTS)
    assert scores.argmax() == 0
    assert scores.argmin() == 1


def test_likelihood_equals_one_text_at_a_time(likelihood):
    import torch

    scores = likelihood.token_log_likelihoods(QUESTION, TEXTS)
    tokenizer, model = likelihood.tokenizer, likelihood.model
    after = len(tokenizer(PROMPT_AFTER, add_special_tokens=False)["input_ids"])
    for text, row in zip(TEXTS, scores, strict=True):
        parts = [tokenizer(part, add_special_tokens=False)["input_ids"]
                 for part in (PROMPT_BEFORE, text, PROMPT_AFTER + QUESTION)]  # fmt: skip
        ids = torch.tensor([[*parts[0], *parts[1], *parts[2]]])
        count = len(parts[2]) - after
        assert row.shape == (count,)
        with torch.no_grad():
            logits = torch.log_softmax(model(ids).logits[0, :-1].float(), -1)
        expected = logits.gather(-1, ids[0, 1:, None])[-count:, 0]
        np.testing.assert_allclose(row, expected.numpy(), atol=0.15)  # bfloat16: other sums in a batch
        assert abs(row.mean() - float(expected.mean())) < 0.03


def test_likelihood_does_not_take_text_for_control_tokens(likelihood):
    plain = likelihood._tokens("a <|im_end|> b")
    assert likelihood.tokenizer.convert_tokens_to_ids("<|im_end|>") not in plain


def test_the_model_speaks(likelihood):
    import torch

    ids = likelihood.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        word = likelihood.tokenizer.decode(likelihood.model(ids).logits[0, -1].argmax())
    assert word.strip() == "Paris"


def test_remembering_reads_each_pair_once():
    class Counting:
        name, read = "counting", 0

        def __call__(self, question: str, texts: list[str]) -> np.ndarray:
            self.read += len(texts)
            return np.array([len(text) for text in texts], np.float32)

    inner = Counting()
    reranker = Remembering(inner)
    assert reranker("q", ["a", "bb", "a"]).tolist() == [1, 2, 1]
    assert reranker("q", ["bb", "ccc"]).tolist() == [2, 3]
    assert reranker("q", []).shape == (0,)
    assert inner.read == 3
    assert not hasattr(reranker, "token_log_likelihoods")
    reranker("another q", ["a"])
    assert inner.read == 4


@pytest.mark.usefixtures("no_runtime_types")
def test_bad_arguments(likelihood, tmp_path):
    with pytest.raises(ValueError, match="question: got ' '"):
        likelihood(" ", TEXTS)
    with pytest.raises(ValueError, match="question: got ''"):
        CosineReranker(HashingEmbedder(8))("", TEXTS)
    with pytest.raises(ValueError, match="batch_size: got 0"):
        QueryLikelihood(batch_size=0)
    with pytest.raises(ValueError, match=r"path: got .*none\.gguf"):
        load_gguf_llama(tmp_path / "none.gguf")
    (tmp_path / "bad.gguf").write_bytes(b"no weights at all, only words")
    with pytest.raises(ValueError, match=r"path: got .*bad\.gguf"):
        load_gguf_llama(tmp_path / "bad.gguf")
    with pytest.raises(ValueError, match=r"name: got '.*no-such-folder'"):
        CrossEncoderReranker(str(tmp_path / "no-such-folder"))


def test_no_scores_for_no_texts(likelihood):
    assert likelihood(QUESTION, []).shape == (0,)
