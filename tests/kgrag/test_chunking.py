"""Chunks: sentences as a reader would cut them, and spans that point into the source."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisys.kgrag.chunking import chunk_document, read_folder, split_sentences, text_to_search, title_of


def sentences(text):
    return [text[start:end] for start, end in split_sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Dr. J. R. R. Tolkien met Mr. Lewis in St. Albans. They talked.", 2),
        ("It cost 3.5 million, i.e. much. He paid.", 2),
        ("He lives in the U.S. He works.", 2),
        ("The U.S. Army grew. It won.", 2),
        ("She joined Apple Inc. The end came.", 2),
        ("Is it in vol. 3? No. 5 has it.", ["Is it in vol. 3?", "No. 5 has it."]),
        ('He wrote "The Hobbit." It sold.', ['He wrote "The Hobbit."', "It sold."]),
        (
            "“Why?” she asked. Nobody knew… Then rain fell.",
            ["“Why?” she asked.", "Nobody knew…", "Then rain fell."],
        ),
        ("no stop at the end", ["no stop at the end"]),
        ("它很大。它很小！", ["它很大。", "它很小！"]),
        ("", []),
        (" \n\n\t ", []),
    ],
)
def test_sentences(text, expected):
    found = sentences(text)
    assert found == expected if isinstance(expected, list) else len(found) == expected, found


def test_paragraphs_headings_and_items_end_a_sentence():
    text = "# A heading\nFirst line\nruns on.\n\nsecond paragraph\n\n"
    text += "- an item. Two.\n- another\n  that runs on\n***\n"
    expected = ["A heading", "First line\nruns on.", "second paragraph", "an item.", "Two."]
    assert sentences(text)[:5] == expected
    assert sentences(text)[5].startswith("another\n  that runs on")


@given(st.text(alphabet="ab .!?\n\"'#-AB0…。Üé1)", max_size=200), st.integers(1, 4))
def test_spans_are_exact_ordered_and_complete(text, size):
    chunks = chunk_document("d", text, sentences=size)
    every = split_sentences(text)
    assert [chunk.start for chunk in chunks] == [every[chunk.sentence][0] for chunk in chunks]
    ends = [0, *(chunk.end for chunk in chunks)]
    for chunk, before in zip(chunks, ends, strict=False):
        assert text[chunk.start : chunk.end] == chunk.text == chunk.text.strip() != ""
        assert chunk.start >= before
    lost = "".join(text[a : b.start] for a, b in zip(ends, chunks, strict=False)) + text[ends[-1] :]
    assert not any(char.isalpha() for char in lost)


def test_chunks_of_several_sentences_stay_within_a_paragraph():
    text = "A one. A two. A three.\n\nB one. B two."
    chunks = chunk_document("d", text, sentences=2)
    assert [chunk.text for chunk in chunks] == ["A one. A two.", "A three.", "B one. B two."]
    assert [chunk.sentence for chunk in chunks] == [0, 2, 3]


def test_titles_and_searched_text():
    assert title_of("notes/ada_lovelace.md") == "ada lovelace"
    assert title_of("Vol. 3, No. 5") == "Vol. 3, No. 5"
    chunk = chunk_document("notes/ada_lovelace.md", "She wrote.")[0]
    assert text_to_search(chunk) == "ada lovelace: She wrote."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((" ", "text"), "document: got ' '"),
        (("d", b"text"), "text: got bytes, expected the text of 'd'"),
        (("d", None), "text: got NoneType"),
    ],
)
def test_bad_documents(no_runtime_types, arguments, message):
    with pytest.raises(ValueError, match=message):
        chunk_document(*arguments)
    with pytest.raises(ValueError, match="sentences: got 0"):
        chunk_document("d", "text", sentences=0)


def test_a_folder_is_read_in_order_without_hidden_files(tmp_path):
    for name in ["b.md", "a/c.txt", ".git/x.md", "a/.hidden.md", "image.png", "empty.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("" if "empty" in name else f"text of {name}")
    (tmp_path / "bom.txt").write_bytes("\ufefftext".encode())
    found = read_folder(tmp_path)
    assert list(found) == ["a/c.txt", "b.md", "bom.txt", "empty.txt"]
    assert found["bom.txt"] == "text"
    assert read_folder(tmp_path / "b.md") == {"b.md": "text of b.md"}


def test_bad_folders(tmp_path):
    with pytest.raises(ValueError, match="which does not exist"):
        read_folder(tmp_path / "missing")
    with pytest.raises(ValueError, match="without such files"):
        read_folder(tmp_path)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"latin\.txt, which is no UTF-8"):
        read_folder(tmp_path)
