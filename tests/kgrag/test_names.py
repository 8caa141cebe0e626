"""Keys of names: what is form meets, what is meaning stays apart."""

import pytest

from minisys.kgrag.names import is_initialism, normalise


@pytest.mark.parametrize(
    "names",
    [
        ["U.S.", "US", "the United States", "U.S.A.", "United States of America", "the US's"],
        ["the U.S. Army", "United States Army", "US Army"],
        ["NASA", "N.A.S.A.", "the NASA"],
        [
            "J. R. R. Tolkien",
            "J.R.R. Tolkien",
            "JRR Tolkien",
            "J. R. R. Tolkien's",
        ],
        ["St. Louis", "Saint Louis"],
        ["Ford Motor Co.", "the Ford Motor Company"],
        ["Apple Inc.", "Apple, Inc.", "Apple Incorporated"],
        ["World War II", "World War 2", "World War Two", "the Second World War"],
        ["5 May 1921", "May 5, 1921", "1921-05-05", "the 5th of May 1921", "5th May, 1921"],
        ["Sept. 2001", "September 2001"],
        ["Beyoncé", "Beyonce", "BEYONCÉ"],
        ["Jean-Paul Sartre", "Jean Paul Sartre"],
        ["O'Brien", "O’Brien"],
        ["1,000 men", "1000 men"],
        ["Martin Luther King, Jr.", "Dr. Martin Luther King Jr", "Martin Luther King Junior"],
        ["AT&T", "AT & T"],
        ["Washington, D.C.", "Washington DC"],
        ["“The Hobbit”", '"The Hobbit"', "Hobbit"],
        ["Łódź", "Lodz"],
        ["Strauß", "Strauss"],
    ],
)
def test_spellings_of_one_name(names):
    assert len({normalise(name) for name in names}) == 1, {name: normalise(name) for name in names}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("US", "us"),
        ("WHO", "Who"),
        ("IT", "it"),
        ("Henry VII", "Henry VIII"),
        ("World War I", "World War II"),
        ("5 May 1921", "5 March 1921"),
        ("George W. Bush", "George H. W. Bush"),
        ("Mercury (planet)", "Mercury (element)"),
        ("C", "C++"),
        ("1.5 million", "15 million"),
        ("U.S. Army", "United States"),
        ("Dr. Dre", "Dre"),
        ("Martin Luther King Jr.", "Martin Luther King Sr."),
        ("!!!", "???"),
    ],
)
def test_different_names(one, other):
    assert normalise(one) != normalise(other)


def test_edges():
    assert normalise("The The") == "the"
    assert normalise("A") == "a"
    assert normalise("!!!") == "!!!"
    assert normalise("  ") == ""
    assert normalise("Louis XIV of France") == "louis 14 of france"
    assert normalise("99 May 1921") == "1921-05-99"  # no calendar here
    assert [
        word for word in ["NASA", "U.S.", "H2O", "AT&T", "Nasa", "A", "ABCDEFGHI"] if is_initialism(word)
    ] == [
        "NASA",
        "U.S.",
        "H2O",
        "AT&T",
    ]


@pytest.mark.parametrize(
    "name", ["the U.S. Army", "J. R. R. Tolkien", "Ford Motor Co.", "5 May 1921", "NASA", "O'Brien"]
)
def test_a_key_is_its_own_key(name):
    assert normalise(normalise(name)) == normalise(name)
