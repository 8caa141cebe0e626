"""The assignment on decoding tells right from wrong, holds what the package does, and counts what is read."""

import pytest
import torch

from minisys.core.seeds import generator_for
from minisys.grade import runner
from minisys.grade.assignment import load_topic
from minisys.grade.judge import made, matches
from minisys.grade.modules import load_module
from minisys.grade.selfcheck import edited, self_check
from minisys.nsa import NSACache, NSAConfig, compress
from minisys.nsa.costs import step_bytes

SEED = 20250219
FILE = "decoding_assignment.py"

# Another way to the same ring: each slot looks for the last position that falls into it.
GATHERED = """
import torch

def write_ring(ring, lengths, new, counts):
    size, held = ring.shape[2], torch.tensor(lengths)[:, None]
    last = held + torch.tensor(counts)[:, None] - 1
    place = last - (last - torch.arange(size)) % size - held
    index = place.clamp(0, new.shape[1] - 1)[:, None, :, None].expand(-1, new.shape[2], -1, new.shape[3])
    return torch.where((place >= 0)[:, None, :, None], new.transpose(1, 2).gather(2, index), ring)
"""
# Another way to the same step: the compressed branch in chunks, which are put together by their lse.
SPLIT = """chunks = []
    for chunk in block.split(3):
        slots = chunk.expand(len(q), hk, -1)
        keys, values = cache.read("k_cmp", slots), cache.read("v_cmp", slots)
        scores = scale * torch.einsum("bkgd,bknd->bkgn", grouped, keys)
        seen = (chunk * config.compress_stride + config.compress_block - 1 <= position)[:, :, None]
        scores = scores.masked_fill(~seen, float("-inf"))
        total = scores.logsumexp(dim=-1, keepdim=True)
        chunks.append((scores, total, scores.sub(total).exp().nan_to_num(0.0) @ values))
    none = grouped.new_full((*grouped.shape[:3], 1), float("-inf"))
    lse = torch.cat([none, *[total for _, total, _ in chunks]], dim=-1).logsumexp(dim=-1, keepdim=True)
    parts = [(total - lse).exp().nan_to_num(0.0) * out for _, total, out in chunks]
    width = cache.read("v_cmp", torch.zeros(len(q), hk, 0).long()).shape[3]
    compressed = sum(parts, torch.zeros(len(q), hk, grouped.shape[2], width, dtype=q.dtype)).flatten(1, 2)
    p_cmp = torch.cat([none[..., :0], *[scores for scores, _, _ in chunks]], dim=-1)
    p_cmp = (p_cmp - lse).exp().nan_to_num(0.0)"""


@pytest.fixture(scope="module")
def topic():
    return load_topic("nsa_decoding")


@pytest.fixture(scope="module")
def parts(topic):
    return {part.name: part for part in topic.parts}


@pytest.fixture(scope="module")
def wrong(topic):
    return load_module("nsa_decoding_wrong", topic.folder / "wrong.py").WRONG


@pytest.fixture(scope="module")
def solution(topic):
    return (topic.folder / "solution" / FILE).read_text(encoding="utf-8")


def cases(topic, part):
    """Arguments of every case of a part, made."""
    drawn = part.cases(generator_for(SEED, topic.name, part.name))
    return [made(case.arguments, topic) for case in drawn]


def grade(topic, part, tmp_path, source):
    (tmp_path / FILE).write_text(source, encoding="utf-8")
    return runner.grade_part(topic, part, tmp_path, SEED)


def test_solution_stub_and_wrong_answers(topic):
    said = []
    assert self_check(topic, SEED, said.append) == []
    assert len([line for line in said if "0 problems" in line]) == 5, said


def test_every_mistake_makes_a_difference_in_some_case_and_is_planted(topic, parts, wrong):
    planted = {(one.part, one.mistake) for one in wrong}
    for part in parts.values():
        arguments = cases(topic, part)
        expected = [part.expected(**one) for one in arguments]
        for mistake in part.mistakes:
            answers = [mistake.answer(**one) for one in arguments]
            differs = [not matches(a, e, part.tolerance) for a, e in zip(answers, expected, strict=True)]
            assert any(differs), (part.name, mistake.key)
            assert (part.name, mistake.key) in planted


def test_the_solution_costs_what_decoding_must_cost(topic):
    report = runner.grade_submission(topic, topic.folder / "solution", seed=SEED, jobs=1)
    assert (report.score, report.out_of) == (100, 100)
    assert not [note for part in report.parts for note in part.notes]
    costs = {part.name: part.costs for part in report.parts}
    (phi,) = costs["compression"]
    assert phi["value"] == phi["beside"]["one each stride"] == 1 / 16
    assert phi["beside"]["all blocks in each step"] > 10
    short, long = costs["step"]
    need = "what NSA must read"
    # a token is 2·2·8 numbers of 2 bytes; the last own block is whole at both lengths, so nothing is padded
    assert [cost["value"] for cost in (short, long)] == [cost["beside"][need] for cost in (short, long)]
    assert short["value"] == (127 + 64 + 32) * 64
    assert long["value"] == (511 + 64 + 32) * 64
    assert long["beside"]["dense"] == 2048 * 64
    ratios = [cost["beside"]["dense"] / cost["value"] for cost in costs["bytes"]]
    assert 3.9 < ratios[0] < 4.1
    assert 11.4 < ratios[1] < 11.8


def test_a_ring_and_its_compressed_keys_are_those_of_the_package():
    """Rings and blocks as part 1 and 2 hold them right, against an NSACache that takes the same tokens."""
    module = load_module("nsa_decoding_parts", load_topic("nsa_decoding").folder / "parts.py", package=True)
    given = load_module("nsa_decoding_given", load_topic("nsa_decoding").folder / "given.py")
    generator, config = torch.Generator().manual_seed(SEED), NSAConfig(6, 2, 4, top_n=4, window=5)
    b, hk, d, most = 2, 2, 4, 7
    phi = given.phi(module.normal(generator, 6, d, d))
    cache = NSACache(
        b, 60, hk, d, d, config=config, compress_keys=phi, compress_values=phi, rotary_base=module.BASE,
        max_append=most, dtype=torch.float64,
    )  # fmt: skip
    raw, window = torch.zeros_like(cache.k_raw), torch.zeros_like(cache.k_win)
    k_cmp, held = torch.zeros_like(cache.k_cmp), [0, 0]
    for counts in ([3, 7], [7, 0], [1, 5], [0, 7], [6, 6]):
        new = [module.normal(generator, b, most, hk, d) for _ in range(6)]
        now = [length + count for length, count in zip(held, counts, strict=True)]
        cache.append(*new, counts=counts)
        raw, window = (module.write(ring, held, x, counts) for ring, x in ((raw, new[0]), (window, new[4])))
        k_cmp = module.compress(raw, k_cmp, held, now, phi, given.rotate(module.BASE), config)
        held = now
        assert torch.equal(raw, cache.k_raw)
        assert torch.equal(window, cache.k_win)
        torch.testing.assert_close(k_cmp, cache.k_cmp, rtol=0, atol=1e-14)


def test_a_step_row_by_row_is_that_of_the_package(topic, parts):
    """What mistakes are one change of, against what is held right."""
    oracle = load_module("nsa_decoding_step", topic.folder / "mistakes_step.py", package=False)
    for arguments in cases(topic, parts["step"]):
        expected = parts["step"].expected(**arguments)
        torch.testing.assert_close(oracle.step(**arguments), expected, rtol=0, atol=1e-13)


def test_scripts_come_to_what_the_package_does(topic, parts):
    """The package's cache raises at the same events, and its rows are as long."""
    for arguments in cases(topic, parts["cache"]):
        sizes, expected = arguments["cache"], parts["cache"].expected(**arguments)
        config = NSAConfig(4, 2, 4, top_n=4, window=sizes.window)
        phi = lambda blocks: blocks.mean(-2)
        cache = NSACache(
            sizes.batch, sizes.capacity, 1, 2, 1, config=config, compress_keys=phi, compress_values=phi,
            max_append=sizes.max_append,
        )  # fmt: skip
        assert expected[0, 0, 2] == cache.k_win.shape[2]
        for (what, *rest), state in zip(arguments["events"], expected, strict=True):
            raised = 0
            try:
                if what == "append":
                    tokens = torch.tensor(rest[0])[:, :, None, None].float()
                    keys = tokens.expand(-1, -1, -1, 2)
                    cache.append(keys, tokens, keys, tokens, keys, tokens, counts=rest[1], start=rest[2])
                else:
                    cache.truncate(rest[0])
            except ValueError:
                raised = 1
            assert state[:, 0].tolist() == [raised] * sizes.batch, (what, rest)
            assert state[:, 1].tolist() == cache.row_lengths, (what, rest)
            positions = [n - 1 for n in cache.row_lengths]
            for row, position in enumerate(positions):
                if position >= 0:
                    slot = position % cache.k_win.shape[2]
                    assert cache.v_win[row, 0, slot, 0] == state[row, -1]


def test_bytes_are_those_of_the_package_over_a_whole_stride(topic, parts):
    """`step_bytes` of the package shares φ out over a stride and counts its weights; the rest is the same."""
    config, sizes = NSAConfig(), {"d_qk": 192, "d_v": 128, "hk": 4, "element_bytes": 2}
    token = (192 + 128) * 4 * 2
    total = parts["bytes"].expected(lengths=range(5000, 5016), config=config, **sizes)
    theirs = [step_bytes(t, config, **sizes) for t in range(5000, 5016)]
    for name in ("compressed", "selected", "window", "append", "dense"):
        assert total[name] == sum(step[name] for step in theirs)
    assert total["compression"] == 33 * token
    assert compress(torch.zeros(1, 5016, 1, 1), lambda x: x.mean(-2), config=config).shape[1] == 312


def test_what_is_left_out_of_the_cost_is_not_asked_for(topic, parts, solution, tmp_path):
    """Reading padded blocks, all compressed slots and the whole ring is allowed."""
    edits = {
        "count = max(0, (longest - config.compress_block) // config.compress_stride + 1)": (
            'count = cache.slots("k_cmp")'
        ),
        "importance.index_add_(2, owner, group)": (
            "inside = owner < importance.shape[2]\n"
            "        importance.index_add_(2, owner[inside], group[..., inside])"
        ),
    }
    for old, new in edits.items():
        assert solution.count(old) == 1
        solution = solution.replace(old, new)
    result = grade(topic, parts["step"], tmp_path, solution)
    assert (result.status, result.points, result.says) == ("passed", 30, "")


def test_other_right_answers_pass(topic, parts, solution, tmp_path):
    result = grade(topic, parts["ring"], tmp_path, GATHERED)
    assert (result.status, result.says) == ("passed", "")
    whole = 'p_cmp, compressed = attend("cmp", block, ends <= position)'
    assert solution.count(whole) == 1
    result = grade(topic, parts["step"], tmp_path, solution.replace(whole, SPLIT))
    assert (result.status, result.says, result.came) == ("passed", "", "")
    short, long = result.costs
    assert short["value"] == short["beside"]["what NSA must read"]
    assert long["value"] == long["beside"]["what NSA must read"]


def test_a_message_names_the_event_and_shows_the_tokens(topic, parts, wrong, solution, tmp_path):
    planted = next(one for one in wrong if one.mistake == "failed-append-wrote")
    result = grade(topic, parts["cache"], tmp_path, edited(solution, planted))
    assert (result.status, result.mistake) == ("wrong", "failed-append-wrote")
    assert "event 3 is append [4, 4] of 4 at [8, 4]" in result.more
    assert "403" in result.came  # a token that was refused, and is read all the same
    assert "403" not in result.expected


def test_a_slot_that_is_none_is_named(topic, parts, solution, tmp_path):
    clamped = "tokens.clamp(max=cache.slots("
    assert solution.count(clamped) == 1
    result = grade(
        topic, parts["step"], tmp_path, solution.replace(clamped, "tokens.clamp(max=9 * cache.slots(")
    )
    assert result.status == "raised"
    assert "read k_slc: got slots 0 to" in result.came


@pytest.mark.parametrize(
    "source",
    ["from minisys.nsa.decoding import decode_reference\n", "from minisys.nsa import NSACache\n"],
    ids=["module", "package"],
)
def test_the_reference_is_not_to_be_had(topic, parts, tmp_path, source):
    result = grade(topic, parts["step"], tmp_path, source)
    assert (result.status, result.points) == ("refused", 0)
