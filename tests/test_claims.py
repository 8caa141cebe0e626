"""The claims ledger: the project's own is whole; whatever breaks one is reported with row and field."""

import copy
import re

import pytest
import yaml

from minisys import claims
from minisys.bench import results
from minisys.core import paths

ROW = {
    "id": "nsa-train",
    "claim": "Training is 5.8 times as fast.",
    "source": ["A"],
    "claimed": [{"value": 5.8, "unit": "×", "text": "training speed"}],
    "measure": {"how": "Step time."},
    "hardware": "one GPU",
    "ours": None,
    "status": "open",
}
MEASURED = {
    "id": "nsa-fwd",
    "ours": [{"result": "nsa-speed", "path": "ratio.1", "unit": "×", "text": "at 64k"}],
    "status": "not reproduced",
}


@pytest.fixture
def folder(tmp_path):
    results.save("nsa-speed", {"ratio": [1.5, 4.59], "name": "median"}, "minisys bench nsa", tmp_path)
    return tmp_path


def write(folder, *rows, **top):
    """A ledger of a good row and `rows`, each a good row with changes (... removes a field)."""
    changed = [{key: value for key, value in (ROW | row).items() if value is not ...} for row in ({}, *rows)]
    sources = {"A": {"name": "digest", "about": "Second-hand.", "cite": "digest2025"}}
    path = folder / "claims.yml"
    path.write_text(yaml.safe_dump({"sources": sources, "claims": changed} | top, sort_keys=False))
    return path


def problems(folder, *rows, **top):
    """The problems of such a ledger, which must have some."""
    with pytest.raises(claims.ClaimsError) as raised:
        claims.load(write(folder, *rows, **top), folder)
    assert isinstance(raised.value, ValueError)
    for problem in raised.value.problems:
        assert problem in str(raised.value)
    return raised.value.problems


# The project's own ledger


def test_the_project_ledger_is_whole_and_its_arithmetic_is_right():
    ledger = claims.load()
    assert len(ledger) >= 40
    by_id = {row.id: row for row in ledger}
    assert by_id["nsa-stride"].status == "inconsistent"
    # the numbers that evidence texts state
    assert "4,095" in by_id["nsa-stride"].evidence
    assert (65536 - 32) // 16 + 1 == 4095
    assert all((t - 32) // 16 + 1 <= t / 16 for t in range(32, 5000))
    fast, slow = (number.value for number in by_id["sky-speed"].claimed[1:])
    assert f"{1 - fast / slow:.3f}" == "0.368"
    assert f"{slow / fast - 1:.3f}" == "0.583"
    assert {"0.368", "0.583"} <= set(re.findall(r"0\.\d{3}", by_id["sky-speed"].evidence))
    full, sparse = (number.value for number in by_id["nsa-aime"].claimed)
    assert f"{sparse / full:.2f} {30 * sparse:.1f} {30 * full:.1f}" == "2.63 3.6 1.4"


def test_every_source_is_in_the_bibliography():
    bibliography = (paths.claims_file().parent / "references.bib").read_text()
    keys = set(re.findall(r"^@\w+\{([^,]+),", bibliography, re.MULTILINE))
    assert {source.cite for source in claims.load().sources.values()} <= keys


def test_the_page_explains_every_status():
    page = (paths.claims_file().parent / "claims.md").read_text()
    assert re.findall(r"^(.+)\n: ", page, re.MULTILINE) == list(claims.STATUSES)


# Reading


def test_a_measured_number_is_read_from_its_result_file(folder):
    ledger = claims.load(write(folder, MEASURED), folder)
    row = ledger["nsa-fwd"]
    (ours,) = row.ours
    assert (ours.value, str(ours)) == (4.59, "4.59× at 64k")
    assert ours.hardware == results.hardware("nsa-speed", folder)
    assert row.commands == ("minisys bench nsa",)
    assert row.measured_on == {"nsa-speed": ours.hardware}
    assert ledger.result_files(row) == ledger.result_files() == [folder / "nsa-speed.json"]
    assert str(row.claimed[0]) == "5.8× training speed"
    assert [row.id for row in ledger] == ["nsa-train", "nsa-fwd"]
    assert "nsa-fwd" in ledger
    assert "nsa-bwd" not in ledger
    assert ledger.counts() == {"open": 1, "not reproduced": 1}

    results.save("nsa-speed", {"ratio": [1.5, 6.0]}, "minisys bench nsa", folder)
    assert claims.load(write(folder, MEASURED), folder)["nsa-fwd"].ours[0].value == 6.0


@pytest.mark.parametrize(
    ("value", "text"),
    [(4095, "4,095"), (4.59321, "4.59"), (0.00123456, "0.00123"), (123456.7, "123,000"), (2.0, "2"), (0, "0"),
     (1.5e-7, "1.5e-07"), (4.64e26, "4.64e+26"), (-0.5, "-0.5"), (65536.0, "65,536"),
     (134219776.0, "134,219,776"), (10**9, "1e+09")],
)  # fmt: skip
def test_numbers_are_shown_for_readers(value, text):
    assert claims.format_number(value) == text


def test_claimed_numbers_are_shown_as_they_were_claimed():
    assert str(claims.Claimed(value=293.35, unit="s", text="for one video")) == "293.35 s for one video"
    assert str(claims.Claimed(value=4.0e8, unit="GPU-hours")) == "400,000,000 GPU-hours"
    assert str(claims.Claimed(text="no number")) == "no number"


def test_an_unknown_id_is_answered_with_the_nearest(folder):
    ledger = claims.load(write(folder, MEASURED), folder)
    with pytest.raises(
        claims.ClaimsError, match="id: got 'nsa-trian', expected the id of a row, for example nsa-train"
    ):
        ledger["nsa-trian"]
    with pytest.raises(claims.ClaimsError, match="id: got 'zzz', expected the id of a row; there are 2"):
        ledger["zzz"]


# Breaking it


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"claim": 5}, "x-1: claim: got 5, expected text"),
        ({"claim": " "}, "x-1: claim: got ' ', expected text that is not blank"),
        ({"source": "A"}, "x-1: source: got 'A', expected a list"),
        ({"source": ["A", "A"]}, "x-1: source: got ['A', 'A'], expected no entry twice"),
        ({"source": ["C"]}, "x-1: source: got 'C', expected one of A"),
        ({"claimed": []}, "x-1: claimed: got [], expected at least one entry"),
        ({"claimed": [{}]}, "x-1: claimed.0: got {}, expected at least one entry"),
        ({"claimed": [{"value": "5.8", "unit": "×"}]}, "x-1: claimed.0.value: got '5.8', expected a number"),
        ({"claimed": [{"value": 5.8}]}, "x-1: claimed.0.unit: got nothing, expected a value"),
        ({"claimed": {"value": 5.8}}, "x-1: claimed: got {'value': 5.8}, expected a list"),
        ({"measure": {"command": "run"}}, "x-1: measure.how: got nothing, expected a value"),
        ({"measure": {"how": "so", "tool": "x"}},
         "x-1: measure.tool: got no known field, expected one of how, command"),
        ({"ours": {"result": "a"}}, "x-1: ours: got {'result': 'a'}, expected a list or null"),
        ({"status": "opne"}, f"x-1: status: got 'opne', expected one of {', '.join(claims.STATUSES)}"),
        ({"hardware": ...}, "x-1: hardware: got nothing, expected a value"),
        ({"hardware": ..., "ours": ...}, "x-1: hardware/ours: got nothing, expected a value"),
        ({"statsu": "open"}, "x-1: statsu: got no known field, expected one of id, claim, source, claimed, "
                             "measure, hardware, ours, status, evidence, needs; did you mean status?"),
        ({"measure": {"how": "so", "a": 1, "howto": 2}},
         "x-1: measure.a/howto: got no known field, expected one of how, command; did you mean how?"),
        ({"id": "NSA_1"}, "NSA_1: id: got 'NSA_1', expected text of the form ^[a-z0-9]+(-[a-z0-9]+)*$"),
        ({"id": 7}, "row 2: id: got 7, expected text"),
        ({"id": ...}, "row 2: id: got nothing, expected a value"),
        ({"id": "nsa-train"}, "nsa-train: id: got it 2 times, expected it once"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_its_row(folder, row, problem):
    assert problems(folder, {"id": "x-1"} | row) == [problem]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"status": "reproduced"},
         "ours: got null, expected a result file and a path in it (status 'reproduced')"),
        ({"status": "simulated", "ours": [{"text": "4.6"}]},
         "ours: got [{'text': '4.6'}], expected a result file and a path in it (status 'simulated')"),
        ({"status": "open", "ours": [{"text": "4.6"}]},
         "ours: got [{'text': '4.6'}], expected null (status 'open')"),
        ({"status": "partly", "ours": MEASURED["ours"]},
         "evidence: got null, expected which part held and which did not (status 'partly')"),
        ({"status": "inconsistent"},
         "evidence: got null, expected the contradiction or the arithmetic (status 'inconsistent')"),
        ({"status": "out of reach"},
         "needs: got null, expected the hardware or the model that is missing (status 'out of reach')"),
        ({"needs": "a cluster"}, "needs: got 'a cluster', expected nothing (status 'open')"),
    ],
)  # fmt: skip
def test_a_status_without_what_it_needs_is_refused(folder, row, problem):
    assert f"x-1: {problem}" in problems(folder, {"id": "x-1"} | row)


def test_a_typed_number_beside_a_read_one_is_refused(folder):
    row = MEASURED | {"ours": [*MEASURED["ours"], {"text": "and 7.2"}]}
    (problem,) = problems(folder, row)
    assert problem.endswith(
        "expected result files only: numbers are read, never typed (status 'not reproduced')"
    )


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"result": "nsa-sped"}, r"name: got 'nsa-sped', expected a result file in .*: nsa-speed"),
        ({"path": "ratios.1"},
         r"path 'ratios\.1': got 'ratios', expected in nsa-speed one of: ratio, name"),
        ({"path": "ratio.2"},
         r"path 'ratio\.2': got '2', expected in 'ratio' of nsa-speed a position from 0 to 1"),
        ({"path": "ratio"}, r"path 'ratio': got \[1\.5, 4\.59\], expected a number in nsa-speed"),
        ({"path": "name"}, r"path 'name': got 'median', expected a number in nsa-speed"),
        ({"result": "../secret"}, r"name: got '\.\./secret', expected lower-case letters .*"),
    ],
)  # fmt: skip
def test_a_dangling_result_is_refused(folder, entry, problem):
    (got,) = problems(folder, MEASURED | {"ours": [MEASURED["ours"][0] | entry]})
    assert re.fullmatch(r"nsa-fwd: ours\.0: " + problem, got)


def test_all_problems_are_reported_together(folder):
    rows = [{"id": "a", "claim": 5, "status": "opne"}, {"id": "b", "status": "inconsistent"}, {"id": "b"}]
    assert problems(folder, *rows) == [
        "a: claim: got 5, expected text",
        f"a: status: got 'opne', expected one of {', '.join(claims.STATUSES)}",
        "b: id: got it 2 times, expected it once",
        "b: evidence: got null, expected the contradiction or the arithmetic (status 'inconsistent')",
    ]
    with pytest.raises(ValueError, match=r"claims\.yml: 4 problems:\n  a: claim"):
        claims.load(folder / "claims.yml", folder)


def test_the_top_level_is_checked(folder):
    source = {"name": "digest", "about": "Second-hand.", "cite": "a key"}
    assert problems(folder, sources={"A": source}) == [
        "sources.A.cite: got 'a key', expected text of the form ^[A-Za-z0-9_:-]+$"
    ]
    assert problems(folder, sources={"A": {"name": "digest"}}) == [
        "sources.A.about/cite: got nothing, expected a value"
    ]
    assert problems(folder, claims=[]) == ["claims: got [], expected at least one entry"]
    assert problems(folder, claims=[ROW, "nsa-fwd"]) == ["row 2: row: got 'nsa-fwd', expected a mapping"]
    assert problems(folder, version=2) == ["version: got no known field, expected one of sources, claims"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "file: got null, expected a mapping with sources and claims"),
        ("- a\n- b\n", "file: got ['a', 'b'], expected a mapping with sources and claims"),
        ("sources: {}\nclaims: [\n", "line 3: got text that is no YAML"),
        ("sources:\n  A: {name: digest\n", "line 3: got text that is no YAML"),
        ("claims: a\nclaims: b\n", "line 2: got text that is no YAML (claims twice), expected the ledger"),
        ("claims: \x07\n", "file: got text that is no YAML"),
    ],
)
def test_a_file_that_is_no_ledger_is_refused_with_its_line(folder, text, problem):
    path = folder / "claims.yml"
    path.write_text(text)
    with pytest.raises(claims.ClaimsError) as raised:
        claims.load(path, folder)
    assert raised.value.problems[0].startswith(problem)


def test_a_ledger_cut_short_anywhere_is_refused_or_lacks_rows(folder):
    path = write(folder, MEASURED)
    text = path.read_text()
    whole = [copy.copy(row) for row in claims.load(path, folder)]
    refused = 0
    for length in range(0, len(text) - 2, 7):
        path.write_text(text[:length])
        try:
            assert list(claims.load(path, folder)) != whole
        except claims.ClaimsError:
            refused += 1
    assert refused > 20


def test_a_missing_ledger_is_named(tmp_path):
    with pytest.raises(claims.ClaimsError, match=r"claims\.yml: file: got none that can be read"):
        claims.load(tmp_path / "claims.yml")
