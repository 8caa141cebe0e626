"""Entity linking: names that mean the same meet, with evidence only."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minisys
from minisys.kgrag.entities import definitions, link_mentions, link_triples
from minisys.kgrag.link_errors import labelled_pairs, link_errors
from minisys.kgrag.types import Chunk, Triple


def linked(first, second, **texts):
    """Whether two mentions ``(document, name)`` are one entity."""
    numbers, _ = link_mentions([first, second], texts)
    return numbers[0] == numbers[1]


def same_within(text, *names, document="d"):
    numbers, _ = link_mentions([(document, name) for name in names], {document: text})
    return len(set(numbers.tolist())) == 1


def test_definitions():
    text = (
        "The National Aeronautics and Space Administration (NASA) met the Caribbean Community (CARICOM; of "
        "1973), Ada Lovelace (born 1815), the Conservative Party (UK), and a dedicated charging port (DCP)."
    )
    assert definitions(text) == [
        ("NASA", "National Aeronautics and Space Administration"),
        ("CARICOM", "Caribbean Community"),
        ("DCP", "dedicated charging port"),
    ]
    assert definitions("(NASA) and nothing. Naval Acts. Some (A) thing") == []


def test_a_definition_holds_everywhere_unless_documents_differ():
    bar, hoops = "the American Bar Association (ABA)", "the American Basketball Association (ABA)"
    full = "American Bar Association"
    assert linked(("other", "ABA"), ("bar", full), bar=bar, other="The ABA met.")
    mentions = [("bar", "ABA"), ("bar", full), ("hoops", "ABA"), ("other", "ABA")]
    numbers, _ = link_mentions(mentions, {"bar": bar, "hoops": hoops, "other": "The ABA met."})
    assert numbers[0] == numbers[1]
    assert len({*numbers[1:].tolist()}) == 3  # in the other document nobody knows which is meant


def test_initials_of_exactly_one_name():
    mit, short = ("a", "Massachusetts Institute of Technology"), ("b", "MIT")
    assert linked(mit, short)
    numbers, _ = link_mentions([mit, short, ("c", "Milan Institute of Theology")], {})
    assert len(set(numbers.tolist())) == 3
    assert not linked(("a", "Dick Van Dyke"), ("b", "DVD"))
    assert not linked(("a", "National League"), ("b", "NL"))  # two letters without a definition


def test_surnames_link_within_a_document_to_one_person():
    text = "Marie Curie won. Curie was a chemist and she taught."
    assert same_within(text, "Marie Curie", "Curie")
    numbers, _ = link_mentions([("d", "Marie Curie"), ("d", "Pierre Curie"), ("d", "Curie")], {"d": text})
    assert len(set(numbers.tolist())) == 3
    assert not linked(("a", "Marie Curie"), ("b", "Curie"), a=text, b="Curie is a village.")
    assert not same_within("Paris Hilton lived in Paris. She sang.", "Paris Hilton", "Paris")
    assert not same_within("Mission Germany is in Germany. He came.", "Mission Germany", "Germany")
    assert not same_within("Delhi Sultanate and Delhi fell.", "Delhi Sultanate", "Delhi")
    assert linked(("a", "Albert Einstein"), ("b", "Professor Einstein"), a="He lived.", b="He said so.")
    assert not linked(("a", "María Denis"), ("b", "Saint Denis"), a="She acted.", b="He was a saint.")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("John F. Kennedy", "John Fitzgerald Kennedy", True),
        ("J. R. R. Tolkien", "John Ronald Reuel Tolkien", True),
        ("George W. Bush", "George H. W. Bush", False),
        ("University Hospital", "University College Hospital", False),
        ("Paris, France", "Paris, Texas", False),
        ("Theodore Roosevelt", "Franklin D. Roosevelt", False),
    ],
)
def test_full_names_in_different_documents(one, other, same):
    assert linked(("a", one), ("b", other)) == same


def test_parts_of_a_document():
    assert same_within("", "Paris", "Paris, France")
    assert same_within("", "Inception", "Inception", document="Inception (film)")
    assert same_within("", "Victoria", "Queen Victoria")
    assert same_within("", "Apple", "Apple Inc.")
    numbers, _ = link_mentions(
        [("a", "Paris"), ("a", "Paris, France"), ("b", "Paris"), ("b", "Paris, Texas")], {}
    )
    assert numbers[0] == numbers[1] != numbers[2] == numbers[3]


def test_triples_to_a_graph():
    chunks = [
        Chunk("a", "The World Health Organization (WHO) met.", 0, 40, 0),
        Chunk("b", "The WHO met US.", 0, 15, 0),
    ]
    triples = [
        Triple("World Health Organization", "is", "WHO", 0),
        Triple("the WHO", "met", "U.S.", 1),
        Triple("!!!", "met", "United States", 1),
    ]
    graph = link_triples(triples, chunks)
    assert graph.entities == ["World Health Organization", "United States", "!!!"]
    assert graph.heads.tolist() == [0, 0, 2]
    assert graph.tails.tolist() == [0, 1, 1]  # the first is a self-loop: a definition, no fact
    assert graph.chunks.tolist() == [0, 1, 1]
    assert (graph.heads.dtype, graph.num_chunks, graph.relations) == (np.int32, 2, ["is", "met", "met"])
    empty = link_triples([], chunks)
    assert (len(empty.heads), empty.entities, empty.num_chunks) == (0, [], 2)


def test_bad_triples(no_runtime_types):
    chunk = [Chunk("a", "x", 0, 1, 0)]
    with pytest.raises(
        ValueError, match=r"triples: got Triple\(.*chunk=1\), expected a chunk number below 1"
    ):
        link_triples([Triple("a", "b", "c", 1)], chunk)
    with pytest.raises(ValueError, match="triples: got the name ' '"):
        link_triples([Triple(" ", "b", "c", 0)], chunk)


def test_the_result_does_not_depend_on_the_run():
    pairs, texts = labelled_pairs()
    mentions = [mention for first, second, _ in pairs for mention in (first, second)]
    numbers, names = link_mentions(mentions, texts)
    backwards, _ = link_mentions(mentions[::-1], texts)
    together = numbers[:, None] == numbers
    assert np.array_equal(together, (backwards[:, None] == backwards)[::-1, ::-1])
    assert len(names) == numbers.max() + 1
    assert list(dict.fromkeys(numbers.tolist())) == list(range(len(names)))


def test_the_result_does_not_depend_on_the_hash_of_strings():
    script = (
        "from minisys.kgrag.entities import link_mentions\n"
        "from minisys.kgrag.link_errors import labelled_pairs\n"
        "pairs, texts = labelled_pairs()\n"
        "numbers, names = link_mentions([m for a, b, _ in pairs for m in (a, b)], texts)\n"
        "print(numbers.tolist(), names)"
    )
    folder = str(Path(minisys.__file__).parents[1])
    outputs = set()
    for seed in "12":
        environment = {**os.environ, "PYTHONPATH": folder, "PYTHONHASHSEED": seed}
        run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True)
        outputs.add(run.stdout)
    assert len(outputs) == 1
    assert b"Tolkien" in outputs.pop()


def test_error_rate_on_the_labelled_pairs():
    pairs, texts = labelled_pairs()
    errors = link_errors(pairs, texts)
    assert errors.same + errors.different == len(pairs) >= 120
    assert min(errors.same, errors.different) >= 60
    assert len({(first, second) for first, second, _ in pairs}) == len(pairs)
    assert errors.missed + errors.merged == len(errors.wrong)
    assert errors.rate == pytest.approx(len(errors.wrong) / len(pairs))
    # What was measured; a change of the rules that is worse must say so here.
    assert errors.missed <= 13
    assert errors.merged <= 4


def test_error_rate_by_hand():
    pairs = [
        (("a", "US"), ("b", "USA"), True),
        (("a", "Rome"), ("b", "Roma"), True),
        (("a", "X Y"), ("b", "x y"), False),
    ]
    errors = link_errors(pairs, {})
    assert (errors.same, errors.different, errors.missed, errors.merged) == (2, 1, 1, 1)
    assert errors.rate == pytest.approx(2 / 3)
    assert errors.wrong == pairs[1:]
    with pytest.raises(ValueError, match="pairs: got none"):
        link_errors([], {})
