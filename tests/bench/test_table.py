"""The table on the screen, with rich and without."""

import builtins

import pytest

from minisys.bench import table

MEASURED = {
    "case": "sdpa-flash", "t": 8192, "direction": "forward",
    "median_ms": 3.2041, "p10_ms": 3.19, "p90_ms": 3.25,
    "tflops_per_s": 343.6, "matmul_share": 0.4412, "tb_per_s": 0.0902, "copy_share": 0.0301,
}  # fmt: skip
ROWS = [
    MEASURED,
    MEASURED | {"t": 16384, "median_ms": 12.5},
    MEASURED | {"case": "nsa", "t": 16384, "median_ms": 1234.5, "matmul_share": 0.01, "copy_share": 0.0301},
    MEASURED | {"direction": "backward", "median_ms": 0.01234},
    {"case": "nsa", "t": 8192, "direction": "forward", "reason": "out of memory: 9 GiB"},
    {"case": "nsa", "t": 8192, "direction": "backward", "reason": "out of memory: 9 GiB"},
    {"case": "fla", "reason": "not installed"},
]


def test_a_line_shows_spread_rates_and_shares():
    assert table.line(MEASURED) == (
        "t   8192 forward  sdpa-flash            3.20 ms (3.19 to 3.25), 344 TFLOP/s = 44 % of matmul, "
        "90.2 GB/s = 3.0 % of copy"
    )
    assert table.line(ROWS[4]) == "t   8192 forward  nsa                out of memory: 9 GiB"


def test_plain_matrix():
    assert table.matrix(ROWS, plain=True).splitlines() == [
        "forward: median ms, and % of the nearer ceiling (matrix product or copy), by t",
        "t                8192       16384",
        "---------------------------------",
        "sdpa-flash  3.20 44 %   12.5 44 %",
        "nsa                 –  1234 3.0 %",
        "",
        "backward: median ms, and % of the nearer ceiling (matrix product or copy), by t",
        "t                  8192",
        "-----------------------",
        "sdpa-flash  0.0123 44 %",
        "",
        "not measured:",
        "  nsa (forward 8192; backward 8192): out of memory: 9 GiB",
        "  fla: not installed",
    ]


def test_rich_draws_the_same_cells_and_its_absence_is_no_error(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    drawn = table.matrix(ROWS)
    for text in ("3.20 44 %", "1234 3.0 %", "0.0123 44 %", "fla: not installed", "┃"):
        assert text in drawn, text

    def without_rich(name, *arguments, **options):
        if name.split(".")[0] == "rich":
            raise ImportError(name)
        return real(name, *arguments, **options)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without_rich)
    assert table.matrix(ROWS) == table.matrix(ROWS, plain=True)


def test_nothing_measured_is_a_list_of_reasons():
    assert table.matrix(ROWS[-1:]) == "not measured:\n  fla: not installed"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1234.5, "1234"),
        (999.4, "999"),
        (1.2, "1.20"),
        (0.012345, "0.0123"),
        (0.0, "0.0e+00"),
        (2e-6, "2.0e-06"),
    ],
)
def test_numbers_have_three_digits(value, shown):
    assert table.number(value) == shown
