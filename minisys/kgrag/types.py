"""What the stages of KG²RAG hand to each other (arXiv 2502.06864, section 3.1).

A corpus is cut into chunks; triples (head, relation, tail) are extracted from each chunk, and a triple
remembers its chunk: G = {(h, r, t, c)}. Entities are numbered, and so are chunks: arrays of numbers are what
expansion and spanning trees work on, and what an index stores.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document.

    Attributes:
        document: name of the document: a title, or a path below the indexed folder.
        text: the chunk's text.
        start, end: where it stands in the document's text, in characters; text = document[start:end].
        sentence: number of its first sentence in the document, from 0.
    """

    document: str
    text: str
    start: int
    end: int
    sentence: int


@dataclass(frozen=True, slots=True)
class Triple:
    """A fact that a chunk states: `head` `relation` `tail`, as written there.

    Attributes:
        chunk: number of the chunk in its corpus, from 0.
    """

    head: str
    relation: str
    tail: str
    chunk: int


@dataclass(frozen=True)
class Graph:
    """The triples of a corpus with their entities linked and numbered.

    Attributes:
        entities: one name for each entity.
        relations: the relation of each triple, in words.
        heads, tails: entity numbers of each triple, int32 ``[triples]``.
        chunks: chunk number of each triple, int32 ``[triples]``.
        num_chunks: chunks of the corpus; some may have no triple.
    """

    entities: list[str]
    relations: list[str]
    heads: Int[np.ndarray, " triples"]
    tails: Int[np.ndarray, " triples"]
    chunks: Int[np.ndarray, " triples"]
    num_chunks: int


@dataclass(frozen=True)
class Corpus:
    """Everything that retrieval reads, in memory or mapped from an index file.

    Attributes:
        chunks: the chunks, by number.
        vectors: an embedding of unit length for each chunk, float32 or float16 ``[chunks, dim]``.
        graph: the knowledge graph over the chunks.
    """

    chunks: list[Chunk]
    vectors: Float[np.ndarray, "chunks dim"]
    graph: Graph


@runtime_checkable
class Embedder(Protocol):
    """Maps texts to vectors of unit length, float32 ``[texts, dim]``; cosine is their dot product."""

    name: str
    dim: int

    def __call__(self, texts: list[str]) -> Float[np.ndarray, "texts dim"]: ...


@runtime_checkable
class Reranker(Protocol):
    """Scores how well each text answers a question, float32 ``[texts]``; larger is better."""

    name: str

    def __call__(self, question: str, texts: list[str]) -> Float[np.ndarray, " texts"]: ...


@runtime_checkable
class Extractor(Protocol):
    """Extracts triples from chunks; `first` is the number of the first chunk."""

    name: str

    def __call__(self, chunks: list[Chunk], first: int = 0) -> list[Triple]: ...
