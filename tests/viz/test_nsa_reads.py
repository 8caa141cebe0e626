"""The data of nsa_reads: the order of the blocks, the static picture, bad arguments."""

import base64
import copy
import json
from dataclasses import asdict, replace

import pytest
import torch

from minisys.nsa import select_blocks
from minisys.nsa.reference import attention_weights, block_importance, compressed_mask
from minisys.nsa.small import layer_branches
from minisys.viz import nsa_reads
from minisys.viz.nsa_reads import MAX_BLOCKS, nsa_reads_state, selected_blocks, static_picture

STEP = 4


@pytest.fixture(scope="module")
def state(model, text, config):
    return nsa_reads_state(model, text, config, query_step=STEP, file_name="a/file.py")


@pytest.fixture(scope="module")
def branches(model, text):
    return layer_branches(model, torch.tensor([list(text)]))


def test_what_is_stored(state, text, config):
    assert json.loads(json.dumps(state)) == state
    assert state["text"].encode("latin-1") == text
    assert state["config"] == asdict(config)
    assert state["sizes"] == {"d_qk": 8, "d_v": 6, "hq": 4, "hk": 2, "element_bytes": 2}
    assert (state["layers"], state["file"], state["query_step"]) == ([0, 1, 2], "a/file.py", STEP)
    for table in (state["rank"], state["importance"]):
        assert [[len(group) for group in layer] for layer in table] == [[125, 125]] * 3
    start = state["start"]
    assert start["layer"] in state["layers"]
    assert (start["position"] + 1) % STEP == 0
    assert 0 <= start["position"] < len(text)


@pytest.mark.parametrize("top_n", [3, 4, 7, 32])
def test_blocks_are_those_the_model_reads(state, branches, config, text, top_n):
    """At any n, as at the trained one: select_blocks on the model's own queries and keys."""
    for layer, found in enumerate(branches):
        blocks = select_blocks(found["q"], found["k_cmp"], config=replace(config, top_n=top_n))[0]
        for position in range(STEP - 1, len(text), STEP):
            for group in range(2):
                expected = [number for number in blocks[position, group].tolist() if number >= 0]
                assert selected_blocks(state, layer, group, position, top_n) == expected


def test_importance_is_in_per_cent_of_the_largest(state, branches, config, text):
    mask = compressed_mask(len(text), config)
    weights = attention_weights(branches[1]["q"], branches[1]["k_cmp"], mask, 8**-0.5)
    importance = block_importance(weights, config)[0]
    for query, position in enumerate(range(STEP - 1, len(text), STEP)):
        stored = list(base64.b64decode(state["importance"][1][1][query]))
        past = importance[position, 1, : position // config.select_block + 1]
        assert len(stored) == len(past)
        if position < config.compress_block - 1:  # no compressed block is visible yet
            assert set(stored) == {0}
        else:
            exact = 100 * past / past.max()
            assert max(stored) == 100
            assert (torch.tensor(stored) - exact).abs().max() < 0.5001


def test_rank_holds_each_block_once_and_no_forced_one(state, config, text):
    for query, position in enumerate(range(STEP - 1, len(text), STEP)):
        own = position // config.select_block
        ranked = list(base64.b64decode(state["rank"][0][0][query]))
        forced = {j for j in range(own + 1) if j == 0 or j >= own - 1}
        assert len(ranked) == len(set(ranked)) == min(own + 1 - len(forced), state["max_top_n"] - len(forced))
        assert not forced & set(ranked)


def test_ties_go_to_the_earlier_block(model, config):
    """Where every score is the same, all whole blocks are equally important."""
    zeros = torch.zeros(1, 256, 4, 8)
    expected = select_blocks(zeros, zeros[:, : config.num_compressed(256), :2], config=config)
    without_queries = copy.deepcopy(model)
    torch.nn.init.zeros_(without_queries.blocks[0].attention.query.weight)
    state = nsa_reads_state(without_queries, b"\x00" * 256, config, layers=[0], query_step=1)
    for position in range(256):
        blocks = [number for number in expected[0, position, 0].tolist() if number >= 0]
        assert selected_blocks(state, 0, 0, position, config.top_n) == blocks


def test_some_layers(model, text, config, state):
    chosen = nsa_reads_state(model, text, config, layers=[2, 0, 2], query_step=STEP)
    assert chosen["layers"] == [0, 2]
    assert chosen["rank"] == [state["rank"][0], state["rank"][2]]
    assert chosen["start"]["layer"] == 2


def test_longer_top_n_than_the_slider_has(model, text, config):
    wide, model = replace(config, top_n=40), copy.deepcopy(model)
    for block in model.blocks:
        block.attention.config = wide
    state = nsa_reads_state(model, text, wide, query_step=STEP)
    assert state["max_top_n"] == 40
    assert len(selected_blocks(state, 0, 0, len(text) - 1, 40)) == 32


def test_same_arguments_same_bytes(model, text, config):
    html = nsa_reads(model, text, config, query_step=STEP, file_name="a.py").html()
    assert html == nsa_reads(model, text, config, query_step=STEP, file_name="a.py").html()
    assert "read 500 bytes of a.py, one byte a token" in html
    assert html.count("</script") == 3  # the text holds two more, escaped


def test_static_picture(state, config):
    picture = static_picture(state)
    position = state["start"]["position"]
    blocks = selected_blocks(state, state["start"]["layer"], 0, position, config.top_n)
    assert picture.startswith('<svg class="map" role="img"')
    assert f"query {position:,}<" in picture
    ground = picture.split('<path class="ground" d="')[1].split('"')[0]
    starts = [int(bar.split(" ")[0]) for bar in ground.split("M")[1:]]
    assert starts == [16 * block for block in blocks]
    assert f">{position + 1:,} keys<" in picture


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "not bytes"}, r"^text: got str, expected bytes"),
        ({"text": b"abc"}, r"^text: got 3 bytes, expected 16 to"),
        ({"text": b"a" * (16 * MAX_BLOCKS + 1)}, r"^text: got 4097 bytes, expected 16 to 4096"),
        ({"query_step": 0}, r"^query_step: got 0"),
        ({"layers": [3]}, r"^layers: got \[3\], expected numbers from 0 to 2"),
        ({"layers": []}, r"^layers: got \[\]"),
    ],
)
def test_bad_arguments(model, text, config, changes, message, no_runtime_types):
    with pytest.raises(ValueError, match=message):
        nsa_reads(**{"model": model, "text": text, "config": config, **changes})


def test_other_config_than_the_models(model, text, config, no_runtime_types):
    with pytest.raises(ValueError, match=r"^config: got .*top_n=5.*expected .*top_n=4.*layer 0"):
        nsa_reads(model, text, replace(config, top_n=5))


def test_dense_model_is_refused(dense_model, text, config, no_runtime_types):
    with pytest.raises(ValueError, match=r"^model: got Decoder .*GroupedQueryAttention.*NativeSparse"):
        nsa_reads(dense_model, text, config)
    with pytest.raises(ValueError, match=r"^model: got Linear"):
        nsa_reads(torch.nn.Linear(1, 1), text, config)


def test_query_that_is_not_stored(state):
    with pytest.raises(ValueError, match=r"^position: got 4, expected i·4 - 1 for i from 1 to 125"):
        selected_blocks(state, 0, 0, 4, 4)
    with pytest.raises(ValueError, match=r"^layer: got 5"):
        selected_blocks(state, 5, 0, 3, 4)
