"""The default corpus: the Python source inside the installed sympy, byte by byte.

PyTorch requires sympy, so the text is on every machine that can run the course, without a download.
The lock pins sympy 1.14.0, and one SHA-256 over all files makes sure that results do not change from machine
to machine; another version is reported, and used only when asked for.

Taken: every non-empty .py file of the package outside folders of tests, benchmarks and generated parsers
(`SKIPPED_FOLDERS`), sorted by path, bytes as they are in the wheel. Every 20th file is held out for
validation. A zero byte follows each file: no source file holds one, so a model can learn where files end, and
a window that runs over a boundary shows it. Tokens are bytes: 256 of them, no tokenizer.
"""

import hashlib
import importlib.metadata
import importlib.util
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from minisys.core.checks import check, check_choice, check_positive_int, check_rank
from minisys.core.seeds import generator_for

CORPUS_VERSION = "1.14.0"
CORPUS_SHA256 = "0bda003f6ad2cb61236b601c3c1cbb8e7b59930e99aa7d6536d0d43bd7e46869"
SKIPPED_FOLDERS = frozenset({"tests", "test-examples", "benchmarks", "_antlr"})
HELD_OUT_EVERY = 20
FILE_END = 0
SPLITS = ("train", "validation")


class CorpusMismatch(ValueError):  # noqa: N818
    """The installed sympy is missing, of another version, or altered."""


@dataclass(frozen=True)
class SourceFile:
    """Where one file lies: bytes start … start + length of its split; `path` begins with ``sympy/``."""

    path: str
    split: str
    start: int
    length: int


@dataclass(frozen=True, eq=False)
class Corpus:
    """The text as two one-dimensional tensors of bytes, and the files that they are made of.

    Attributes:
        train: bytes to learn from, ``[n]`` uint8.
        validation: bytes of the files held out, ``[m]`` uint8.
        files: all files, sorted by path.
        version: the version of sympy they come from.
        sha256: over path, length and bytes of every file.
    """

    train: UInt8[Tensor, " n"]
    validation: UInt8[Tensor, " m"]
    files: tuple[SourceFile, ...]
    version: str
    sha256: str

    def split(self, name: str) -> UInt8[Tensor, " n"]:
        """The bytes of the split `name`, ``"train"`` or ``"validation"``."""
        check_choice("split", name, SPLITS)
        return self.train if name == "train" else self.validation

    def tokens(self, path: str) -> UInt8[Tensor, " length"]:
        """The bytes of one file as a view into its split; ValueError for a path that is not in the corpus."""
        for file in self.files:
            if file.path == path:
                return self.split(file.split)[file.start : file.start + file.length]
        raise ValueError(f"path: got {path!r}, expected a path of the corpus like {self.files[0].path!r}")

    def read(self, path: str) -> bytes:
        """The bytes of one file."""
        return self.tokens(path).numpy().tobytes()

    def text(self, path: str) -> str:
        """One file as text."""
        return self.read(path).decode()

    def sample_batch(
        self, split: str, batch: int, t: int, generator: torch.Generator | None = None
    ) -> tuple[Int[Tensor, "b t"], Int[Tensor, "b t"]]:
        """`batch` windows of `t` bytes from anywhere in the split: inputs and the bytes that follow, int64.

        Every start is equally likely. Raises ValueError where the split is too short for one window.
        """
        data = self.split(split)
        check_positive_int("batch", batch)
        check_positive_int("t", t)
        check(t < data.numel(), "t", t, f"less than the {data.numel()} bytes of {split}")
        starts = torch.randint(data.numel() - t, (batch, 1), generator=generator)
        windows = data[starts + torch.arange(t + 1)].long()
        return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()

    def batch_at(
        self, split: str, batch: int, t: int, *, seed: int, step: int
    ) -> tuple[Int[Tensor, "b t"], Int[Tensor, "b t"]]:
        """The batch of one training step. It depends on the arguments only, so that a run can be resumed."""
        return self.sample_batch(split, batch, t, generator_for(seed, split, step))


def encode(text: str) -> Int[Tensor, " t"]:
    """Text to byte tokens (UTF-8), int64."""
    return torch.tensor(list(text.encode()), dtype=torch.int64)


def decode(tokens: Int[Tensor, " t"] | UInt8[Tensor, " t"]) -> str:
    """Byte tokens to text; bytes that are no UTF-8 become U+FFFD. ValueError for a token outside 0 … 255."""
    check_rank("tokens", tokens, "t")
    values = tokens.tolist()
    check(all(0 <= value <= 255 for value in values), "tokens", values, "bytes, 0 to 255")
    return bytes(values).decode(errors="replace")


def load_corpus(*, allow_other_version: bool = False) -> Corpus:
    """Read the corpus from the installed sympy, without importing it.

    Raises CorpusMismatch, which says what was found, what was expected and how to mend it, unless the files
    are those of sympy 1.14.0. With `allow_other_version` that is a warning, and results are not comparable.
    """
    spec = importlib.util.find_spec("sympy")
    mend = f'install it with: pip install --force-reinstall "sympy=={CORPUS_VERSION}"'
    if spec is None or not spec.submodule_search_locations:
        raise CorpusMismatch(f"corpus: got no sympy, expected sympy {CORPUS_VERSION}; {mend}")
    package = Path(spec.submodule_search_locations[0])
    try:
        version = importlib.metadata.version("sympy")
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    corpus = read_corpus(package, version)
    if corpus.sha256 != CORPUS_SHA256:
        altered = " (files were altered, added or removed)" if version == CORPUS_VERSION else ""
        problem = (
            f"corpus: got sympy {version}{altered}, {len(corpus.files)} files with SHA-256 {corpus.sha256}, "
            f"expected sympy {CORPUS_VERSION} with SHA-256 {CORPUS_SHA256}; {mend}"
        )
        if not allow_other_version:
            raise CorpusMismatch(f"{problem}, or call load_corpus(allow_other_version=True)")
        warnings.warn(f"{problem}. Numbers will differ from those of the course.", stacklevel=2)
    return corpus


def read_corpus(package: Path, version: str) -> Corpus:
    """Build a corpus from the .py files under the folder `package`, whatever they are."""
    sources = {}
    for file in package.rglob("*.py"):
        relative = file.relative_to(package.parent)
        if SKIPPED_FOLDERS.isdisjoint(relative.parts):
            sources[relative.as_posix()] = file.read_bytes()
    files, digest = [], hashlib.sha256()
    splits = {name: bytearray() for name in SPLITS}
    for path in sorted(path for path, content in sources.items() if content):
        content = sources[path]
        digest.update(f"{path}\0{len(content)}\0".encode() + content)
        split = "validation" if len(files) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 else "train"
        files.append(SourceFile(path, split, len(splits[split]), len(content)))
        splits[split] += content + bytes([FILE_END])
    for split, content in splits.items():
        got = f"{len(files)} Python files in {package}"
        check(len(content) > 0, "package", got, f"enough of them for a {split} split")
    train, validation = (torch.frombuffer(splits[name], dtype=torch.uint8) for name in SPLITS)
    return Corpus(train, validation, tuple(files), version, digest.hexdigest())
