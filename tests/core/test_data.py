"""The corpus: what is in it, that it is the one we mean, and its batches."""

import subprocess
import sys
import warnings
from collections import Counter

import pytest
import torch

from minisys.core import data
from minisys.core.data import CorpusMismatch, decode, encode, load_corpus, read_corpus


@pytest.fixture(scope="module")
def corpus():
    return load_corpus()


@pytest.fixture
def package(tmp_path):
    """A small package of 40 files beside things that do not belong to the corpus."""
    root = tmp_path / "sympy"
    (root / "tests").mkdir(parents=True)
    for index in range(40):
        (root / f"m{index:02}.py").write_bytes(b"x = %d\r\n" % index)
    (root / "tests" / "test_x.py").write_text("assert False\n")
    (root / "empty.py").write_text("")
    (root / "notes.txt").write_text("no code\n")
    return root


def test_the_default_corpus_is_the_pinned_one(corpus):
    assert corpus.version == data.CORPUS_VERSION == "1.14.0"
    assert corpus.sha256 == data.CORPUS_SHA256
    assert corpus.train.dtype == corpus.validation.dtype == torch.uint8
    assert corpus.validation.numel() / corpus.train.numel() > 0.03


def test_every_byte_of_a_split_belongs_to_a_file_or_ends_one(corpus):
    for name in data.SPLITS:
        split, end = corpus.split(name), 0
        for file in (file for file in corpus.files if file.split == name):
            assert file.start == end
            assert split[file.start + file.length] == data.FILE_END
            end = file.start + file.length + 1
        assert end == split.numel()
        files = sum(file.split == name for file in corpus.files)
        assert int((split == data.FILE_END).sum()) == files


def test_files_are_sorted_code_and_split_by_file(corpus):
    paths = [file.path for file in corpus.files]
    assert paths == sorted(set(paths))
    assert all(path.startswith("sympy/") and path.endswith(".py") and "/tests/" not in path for path in paths)
    held_out = [index for index, file in enumerate(corpus.files) if file.split == "validation"]
    assert held_out == list(range(19, len(paths), 20))


def test_reading_a_file_back_gives_the_installed_bytes(corpus):
    import sympy

    source = sympy.core.cache.__file__
    with open(source, "rb") as stream:
        assert corpus.read("sympy/core/cache.py") == stream.read()
    assert corpus.text("sympy/core/cache.py").startswith('""" Caching facility')
    with pytest.raises(ValueError, match=r"path: got 'sympy/nothing.py', expected a path of the corpus"):
        corpus.read("sympy/nothing.py")


def test_loading_does_not_import_sympy_where_torch_did_not():
    code = (
        "import sys, minisys.core.data as data\n"
        "before = 'sympy' in sys.modules\n"
        "data.load_corpus()\n"
        "assert ('sympy' in sys.modules) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_skipped_files_and_newlines(package):
    corpus = read_corpus(package, "9")
    assert len(corpus.files) == 40
    assert {file.path for file in corpus.files if file.split == "validation"} == {
        "sympy/m19.py",
        "sympy/m39.py",
    }
    assert corpus.read("sympy/m07.py") == b"x = 7\r\n"


@pytest.mark.parametrize("change", ["content", "name", "removed", "added"])
def test_any_change_changes_the_checksum(package, change):
    before = read_corpus(package, "9").sha256
    assert before == read_corpus(package, "9").sha256
    file = package / "m03.py"
    if change == "content":
        file.write_bytes(b"x = 9\r\n")
    elif change == "name":
        file.rename(package / "m03b.py")
    elif change == "removed":
        file.unlink()
    else:
        (package / "more.py").write_text("y = 1\n")
    assert read_corpus(package, "9").sha256 != before


def install(monkeypatch, package, version):
    class Spec:
        submodule_search_locations = (str(package),)

    monkeypatch.setattr(data.importlib.util, "find_spec", lambda name: Spec())
    monkeypatch.setattr(data.importlib.metadata, "version", lambda name: version)


@pytest.mark.parametrize(
    ("version", "said"), [("1.13.3", "got sympy 1.13.3,"), ("1.14.0", "files were altered")]
)
def test_another_corpus_is_refused_and_the_message_says_how_to_mend_it(monkeypatch, package, version, said):
    install(monkeypatch, package, version)
    with pytest.raises(CorpusMismatch, match=said) as error:
        load_corpus()
    for part in (data.CORPUS_SHA256, read_corpus(package, "9").sha256, "pip install", "sympy==1.14.0"):
        assert part in str(error.value)


def test_another_version_is_used_with_a_warning_when_asked_for(monkeypatch, package):
    install(monkeypatch, package, "1.13.3")
    with pytest.warns(UserWarning, match=r"got sympy 1\.13\.3.*Numbers will differ"):
        corpus = load_corpus(allow_other_version=True)
    assert corpus.version == "1.13.3"
    assert len(corpus.files) == 40


def test_the_pinned_corpus_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_corpus(allow_other_version=True)


def test_without_sympy_or_without_files(monkeypatch, tmp_path):
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CorpusMismatch, match="got no sympy"):
        load_corpus()
    with pytest.raises(ValueError, match="0 Python files"):
        read_corpus(tmp_path, "9")


def test_text_and_tokens_round_trip():
    text = "x = 'é∑'\n"
    tokens = encode(text)
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == list(text.encode())
    assert decode(tokens) == text
    assert decode(tokens.to(torch.uint8)) == text
    assert decode(encode("é")[:1]) == "\ufffd"
    assert decode(encode("")) == ""


def test_decode_refuses_what_is_no_byte(no_runtime_types):
    with pytest.raises(ValueError, match=r"tokens: got .*256.*, expected bytes"):
        decode(torch.tensor([65, 256]))
    with pytest.raises(ValueError, match="tokens: got shape"):
        decode(torch.tensor([[65]]))


def test_a_batch_is_consecutive_text_and_targets_are_one_ahead(corpus):
    inputs, targets = corpus.sample_batch("train", 5, 64, torch.Generator().manual_seed(0))
    assert inputs.shape == targets.shape == (5, 64)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    train = corpus.train.numpy().tobytes()
    for row, target in zip(inputs, targets, strict=True):
        assert bytes([*row.tolist(), target[-1].item()]) in train


def test_a_batch_depends_on_seed_split_and_step_only(corpus):
    def batch(**change):
        arguments = {"split": "train", "seed": 1, "step": 2} | change
        return corpus.batch_at(arguments["split"], 4, 32, seed=arguments["seed"], step=arguments["step"])[0]

    first = batch()
    torch.manual_seed(3)
    torch.rand(7)
    assert torch.equal(batch(), first)
    for change in ({"seed": 2}, {"step": 3}, {"split": "validation"}, {"seed": 2, "step": 1}):
        assert not torch.equal(batch(**change), first)


def test_every_start_is_drawn_and_the_last_one_fits(package):
    corpus = read_corpus(package, "9")
    t = corpus.validation.numel() - 3
    inputs, _ = corpus.sample_batch("validation", 200, t, torch.Generator().manual_seed(0))
    assert len(Counter(map(tuple, inputs.tolist()))) == 3  # starts 0, 1 and 2


def test_bad_batches(corpus, no_runtime_types):
    with pytest.raises(ValueError, match="split: got 'test', expected one of 'train', 'validation'"):
        corpus.sample_batch("test", 1, 1)
    with pytest.raises(ValueError, match="batch: got 0"):
        corpus.sample_batch("train", 0, 1)
    with pytest.raises(ValueError, match=r"t: got 1\.5"):
        corpus.sample_batch("train", 1, 1.5)
    n = corpus.validation.numel()
    with pytest.raises(ValueError, match=f"t: got {n}, expected less than the {n} bytes of validation"):
        corpus.sample_batch("validation", 1, n)
