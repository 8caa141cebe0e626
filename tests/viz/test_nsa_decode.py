"""The data of nsa_decode: bytes are those of minisys.nsa.costs, times by hand, what is drawn as measured."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from minisys.nsa import NSAConfig
from minisys.nsa.costs import step_bytes
from minisys.viz.nsa_decode import (
    decades,
    nsa_decode,
    nsa_decode_state,
    parts,
    predicted,
    short,
    shown,
    static_picture,
    time_label,
)

MEASURED = Path(__file__).parent / "decode_results"
CHOICE = {"length": 65536, "batch": 8, "group": 16, "window": 512, "top_n": 16, "launch_us": 2.0}


@pytest.fixture(scope="module")
def state():
    return nsa_decode_state(directory=MEASURED)


def test_a_step_by_hand(state, tmp_path):
    found = predicted(nsa_decode_state(directory=tmp_path), CHOICE)
    token = 2 * 128 * 4 * 2
    assert found["bytes"]["selected"] == 8 * 16 * 64 * token
    assert found["bytes"]["dense"] == 8 * 65537 * token
    per_us = 3.0e6  # no result file: the assumed rate
    assert found["us"]["dense"] == 8 * 65537 * token / per_us
    assert found["step_us"] == {
        "nsa": found["bytes"]["nsa"] / per_us + 4.0,
        "dense": found["bytes"]["dense"] / per_us + 4.0,
    }
    assert found["curve"]["nsa"][6] == found["step_us"]["nsa"]  # 2^10 · 2^6 tokens
    assert sum(parts(found["bytes"]).values()) == found["bytes"]["nsa"]
    assert 11 < found["bytes"]["dense"] / found["bytes"]["nsa"] < 11.8
    assert predicted(state, CHOICE)["step_us"]["dense"] == found["bytes"]["dense"] / 2.75e6 + 4.0


@pytest.mark.parametrize("group", [1, 4, 64])
@pytest.mark.parametrize("length", [1024, 1 << 20])
def test_every_control_moves_the_bytes(state, group, length):
    choice = CHOICE | {"length": length, "group": group, "batch": 2, "window": 128, "top_n": 40}
    config = NSAConfig(window=128, top_n=40)
    expected = step_bytes(length, config, d_qk=128, d_v=128, hk=64 // group, batch=2)
    assert predicted(state, choice)["bytes"] == expected


def test_points_are_rows_of_the_result_file(state):
    assert state["copy_tb_per_s"] == 2.75
    assert state["copy_measured"]
    assert "Made-up GPU" in state["measured"]["where"]
    found = predicted(state, CHOICE)["points"]
    # no stage, no first token, no row that could not be measured, none shorter than the axis
    assert found == {"nsa": [[8192, 24.1], [65536, 41.2]], "dense": [[8192, 66.0], [65536, 367.5]]}
    assert predicted(state, CHOICE | {"batch": 64})["points"] == {"nsa": [], "dense": [[65536, 2900.0]]}
    none = {"nsa": [], "dense": []}
    for other in ({"window": 256}, {"top_n": 15}):  # dense attention has neither
        assert predicted(state, CHOICE | other)["points"] == none | {"dense": found["dense"]}
    for other in ({"group": 8}, {"batch": 2}):
        assert predicted(state, CHOICE | other)["points"] == none


def test_without_a_result_file_nothing_is_measured(tmp_path):
    state = nsa_decode_state(directory=tmp_path)
    assert state["measured"] is None
    assert (state["copy_tb_per_s"], state["copy_measured"]) == (3.0, False)
    assert predicted(state, CHOICE)["points"] == {"nsa": [], "dense": []}
    assert "<circle" not in static_picture(state)


def test_a_rate_that_is_given_is_no_measured_one():
    state = nsa_decode_state(directory=MEASURED, copy_tb_per_s=1.5)
    assert (state["copy_tb_per_s"], state["copy_measured"]) == (1.5, False)
    assert state["measured"]["points"]


def test_the_picture_says_what_it_shows(state):
    picture = static_picture(state)
    assert (
        "<title>A step at 65,536 tokens and batch 8: NSA moves 92.6 MB, dense attention 1,074 MB." in picture
    )
    assert picture.count("<circle") == 4
    assert picture.count('<rect class="compressed"') == 2
    assert decades(predicted(state, CHOICE)) == (1, 4)  # from 10 µs to 10 ms
    assert len(json.dumps(state)) < 5000


def test_words():
    assert [shown(x) for x in (1074.2, 99.95, 34.05, 2.125, 0.0)] == [
        "1,074",
        "100.0",
        "34.1",
        "2.13",
        "0.00",
    ]
    assert [short(1 << i) for i in (10, 16, 20)] == ["1k", "64k", "1M"]
    assert [time_label(i) for i in (-1, 0, 2, 3, 5, 6)] == [
        "0.1 µs",
        "1 µs",
        "100 µs",
        "1 ms",
        "100 ms",
        "1 s",
    ]


def test_same_arguments_same_page():
    assert nsa_decode(directory=MEASURED).html() == nsa_decode(directory=MEASURED).html()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hq": 48}, r"^hq: got 48, expected a multiple of 64"),
        ({"d_qk": 0}, r"^d_qk: got 0"),
        ({"d_v": -1}, r"^d_v: got -1"),
        ({"launches": {"nsa": 3}}, r"^launches: got \{'nsa': 3\}, expected a positive number for nsa and"),
        ({"launches": {"nsa": 3, "dense": 0}}, r"^launches: got"),
        ({"copy_tb_per_s": -1.0}, r"^copy_tb_per_s: got -1.0"),
        ({"copy_tb_per_s": float("inf")}, r"^copy_tb_per_s: got inf"),
        ({"config": NSAConfig(top_n=65)}, r"^config: got top_n 65, expected at most 64"),
        ({"config": NSAConfig(window=9999)}, r"^config: got window 9999, expected at most 4096"),
    ],
)
def test_bad_arguments(changes, message, tmp_path, no_runtime_types):
    with pytest.raises(ValueError, match=message):
        nsa_decode(directory=tmp_path, **changes)


@pytest.mark.parametrize("changes", [{"d_qk": 192}, {"hq": 128}, {"config": NSAConfig(compress_block=64)}])
def test_a_result_file_of_another_shape_is_refused(changes):
    with pytest.raises(ValueError, match=r"^nsa-decode-gpu: got .*, expected measured with"):
        nsa_decode(directory=MEASURED, **changes)


def test_a_broken_result_file_is_refused(tmp_path):
    shutil.copy(MEASURED / "nsa-decode-gpu.json", tmp_path)
    document = json.loads((tmp_path / "nsa-decode-gpu.json").read_text())
    (tmp_path / "nsa-decode-gpu.json").write_text(json.dumps(document | {"schema": 0}))
    with pytest.raises(ValueError, match="schema: got 0"):
        nsa_decode(directory=tmp_path)


def test_the_reader_starts_with_the_given_config(tmp_path):
    config = NSAConfig(window=300, top_n=9)
    state = nsa_decode_state(config=config, directory=tmp_path)
    assert (state["start"]["window"], state["start"]["top_n"]) == (300, 9)
    assert 300 in state["windows"]
    assert state["config"] == asdict(config)
