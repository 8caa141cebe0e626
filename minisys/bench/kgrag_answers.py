"""Answers that a small language model writes: what it knows alone, and what a context adds.

The model answers in a few words after examples of our own, greedily, up to the first line break. Alone it
gets the question; otherwise also the chunks that a method found, each with its title, in the method's order;
and as the most that any method could give it, the supporting facts themselves. Answers are compared with the
gold ones after the official normalisation (`minisys.kgrag.metrics`).

Where entities have changed places (`minisys.kgrag.shuffle`), what the model remembers is of no use: the
change from a set to its shuffled twin, question by question, says how much of an answer was memory.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from minisys.bench.kgrag_sets import Prepared
from minisys.core.checks import check, check_positive_int
from minisys.kgrag.chunking import text_to_search
from minisys.kgrag.evaluate import Outcome
from minisys.kgrag.metrics import answer_f1, exact_match, paired_bootstrap

ALONE = "language model alone"
GOLD = "language model reads the supporting facts"
TOKENS = 12  # of an answer
CHANGES = ("recall", "f1", "exact_match", "answer_f1")  # measures compared between a set and its twin
EXAMPLES = (  # passages, question, answer; of invented things, so that they give no answer away
    (
        ("Alpine Lines: Alpine Lines is a bus company that was founded by Erika Baumann.",
         "Erika Baumann: Baumann was born in Chur and trained as a nurse."),
        "Where was the founder of Alpine Lines born?", "Chur",
    ),
    (
        ("Sable (film): Sable is a drama that came out in 1931.",
         "Low Bridge: Low Bridge was first shown in 1928."),
        "Which film came out first, Sable or Low Bridge?", "Low Bridge",
    ),
    (
        ("Tom Reed: Reed was a Canadian painter.", "Anna Holt: Holt painted in Canada, where she was born."),
        "Were Tom Reed and Anna Holt of the same country?", "yes",
    ),
    (
        ("Port Ellis: The lighthouse of Port Ellis was finished in 1884.",),
        "When was the lighthouse of Port Ellis finished?", "1884",
    ),
)  # fmt: skip

Write = Callable[[list[str]], list[str]]  # prompts to what follows them


def reads(method: str) -> str:
    """The name of the row whose answers are written from what `method` found."""
    return f"language model reads {method}"


def prompt(question: str, passages: Sequence[str]) -> str:
    """The examples and the question, with passages or, for all of them, without."""
    asked = [(shown if passages else (), text, answer) for shown, text, answer in EXAMPLES]
    asked.append((passages, question, ""))
    blocks = [
        "".join(f"Passage: {' '.join(passage.split())}\n" for passage in shown)
        + f"Question: {' '.join(text.split())}\nAnswer: {answer}"
        for shown, text, answer in asked
    ]
    return "\n\n".join(blocks).rstrip()


def first_line(written: str) -> str:
    """The answer in what the model wrote."""
    return next((line.strip() for line in written.splitlines() if line.strip()), "")


def measure_written(
    method: str, prepared: Prepared, contexts: Mapping[str, Sequence[int]], write: Write
) -> Outcome:
    """Let the model answer each question from its context (chunk numbers; none: alone)."""
    asked = [question for question in prepared.questions.questions if question.id in contexts]
    check(len(asked) == len(contexts) > 0, "contexts", f"{len(contexts)}", "one for each question asked")
    texts = [text_to_search(chunk) for chunk in prepared.corpus.chunks]
    shown = [[texts[number] for number in contexts[question.id]] for question in asked]
    prompts = [prompt(question.text, passages) for question, passages in zip(asked, shown, strict=True)]
    answers = [first_line(written) for written in write(prompts)]
    pairs = [(answer, question.answers) for answer, question in zip(answers, asked, strict=True)]
    values = {
        "exact_match": [exact_match(*pair) for pair in pairs],
        "answer_f1": [answer_f1(*pair) for pair in pairs],
        "chunks": [float(len(passages)) for passages in shown],
        "words": [float(sum(len(text.split()) for text in passages)) for passages in shown],
    }
    numbers = tuple(tuple(contexts[question.id]) for question in asked)
    return Outcome(method, tuple(question.id for question in asked), numbers, values)


def gold_contexts(prepared: Prepared) -> dict[str, tuple[int, ...]]:
    """The supporting facts of each answerable question, as chunk numbers."""
    place = {(chunk.document, chunk.sentence): n for n, chunk in enumerate(prepared.corpus.chunks)}
    return {
        question.id: tuple(place[fact] for fact in question.facts)
        for question in prepared.questions.questions
        if question.answerable and question.facts
    }


def changes(shuffled: Sequence[Outcome], original: Sequence[Outcome]) -> dict[str, dict]:
    """What each method that was run on both loses or gains where entities have changed places.

    For each of `CHANGES` that it has, ``f1_change`` with the 95 % interval ``f1_change_low`` and ``_high``.
    """
    before, found = {outcome.method: outcome for outcome in original}, {}
    for after in shuffled:
        if after.method not in before:
            continue
        old = before[after.method]
        check(
            after.questions == old.questions, "shuffled", f"other questions for {after.method!r}", "the same"
        )
        row: dict[str, float] = {}
        for name in CHANGES:
            if name in after.values and name in old.values:
                change = paired_bootstrap(after.values[name], old.values[name])
                row |= {f"{name}_change": change.mean, f"{name}_change_low": change.low}
                row[f"{name}_change_high"] = change.high
        found[after.method] = row
    return found


class Writer:
    """Greedy continuations of prompts by a causal model of transformers, several prompts at once.

    tokens: of a continuation at most; batch: prompts that go through the model at once.
    """

    def __init__(self, model: Any, tokenizer: Any, *, tokens: int = TOKENS, batch: int = 8) -> None:
        check_positive_int("tokens", tokens)
        check_positive_int("batch", batch)
        self._model, self._tokenizer, self._tokens, self._batch = model, tokenizer, tokens, batch

    def __call__(self, prompts: list[str]) -> list[str]:
        """What the model writes after each prompt, the prompt left out."""
        order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))  # little padding
        written = [""] * len(prompts)
        for first in range(0, len(order), self._batch):
            batch = order[first : first + self._batch]
            for number, text in zip(batch, self._continue([prompts[i] for i in batch]), strict=True):
                written[number] = text
        return written

    def _continue(self, prompts: list[str]) -> list[str]:
        # A document that writes “<|im_end|>” means those letters, not the control token.
        inputs = self._tokenizer(
            prompts, return_tensors="pt", padding=True, padding_side="left",
            add_special_tokens=False, split_special_tokens=True,
        )  # fmt: skip
        made = self._model.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
            max_new_tokens=self._tokens, do_sample=False, pad_token_id=self._tokenizer.pad_token_id,
        )  # fmt: skip
        return self._tokenizer.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
