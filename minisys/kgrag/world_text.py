"""How the generated world speaks: the relations between its things, and the sentences that state them.

A relation holds between one head and one tail. `by_head` are sentences for the head's document, `by_tail` for
the tail's. In a template ``{S}`` is the document's subject at the start of a sentence (its name, a short name
or a pronoun), ``{o}`` the other entity or the value. A question is put together from `phrase`, a noun phrase
for the tail, and `ask`, the question for it; ``{x}`` is the noun phrase so far.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """A relation of the world; `words` is how a triple names it, `tail` the category of its tail."""

    words: str
    head: str
    tail: str
    by_head: tuple[str, ...]
    by_tail: tuple[str, ...] = ()
    phrase: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()


PROFESSIONS = (
    "cartographer", "botanist", "novelist", "clockmaker", "astronomer", "painter", "composer", "physician",
    "engineer", "printer", "glassmaker", "surveyor", "poet", "chemist", "architect", "sailor",
)  # fmt: skip
CRAFTS = (
    "blue glass", "paper", "ship bells", "smoked eel", "lace", "copper kettles", "plum brandy",
    "wool carpets", "violins", "salt", "tin toys", "honey cakes", "sailcloth", "ink", "barometers",
    "walnut cabinets",
)  # fmt: skip
FIELDS = (
    "Tides", "Glass", "Winds", "Maps", "Dyes", "Minerals", "Harmony", "Navigation", "Seeds", "Optics", "Bees",
    "Printing", "Metals", "Weather", "Bridges", "Dialects",
)  # fmt: skip
ORGANISATIONS = {
    "academy": ("Academy of", "University of", "College of"),
    "institute": ("Institute of", "Society for", "Observatory of", "Bureau of"),
    "press": ("House of", "Company of", "Union of"),
}
WORKS = {
    "novel": ("author", "written", "wrote", "a novel in {n} chapters"),
    "opera": ("composer", "composed", "composed", "an opera in {n} acts"),
    "painting": ("painter", "painted", "painted", "a painting on {n} panels"),
    "atlas": ("compiler", "compiled", "compiled", "an atlas of {n} sheets"),
}
OPENINGS = {
    "person": (
        "{S} was a {noun}.",
        "{S} was a {noun} and a tireless collector of {craft}.",
        "{S}, a {noun}, kept a diary for {n} years.",
    ),
    "town": (
        "{S} is a town of about {n},000 people.",
        "{S} is an old market town with {n} wells.",
        "{S} is a town whose streets are laid out around {n} squares.",
    ),
    "country": ("{S} is a country of {n} provinces.", "{S} is a country with {n} harbours."),
    "river": ("{S} is a river of about {n}0 kilometres.", "{S} is a river crossed by {n} bridges."),
    "work": ("{S} is {form}.", "{S}, {form}, survives in {n} copies."),
    "organisation": (
        "{S} ({short}) is a {noun} with {n} members.",
        "{S} ({short}) is an old {noun} known for its lectures on {craft}.",
        "{S}, usually called the {short}, is a {noun} with a staff of {n}.",
    ),
}

RELATIONS = {
    "born_in": Relation(
        "was born in",
        "person",
        "town",
        (
            "{S} was born in {o}.",
            "{S} came into the world in {o}, as the child of a ferryman.",
            "{S} was a native of {o}.",
        ),
        ("{S} is the birthplace of the {noun} {o}.", "Among those born in {s} is the {noun} {o}."),
        ("the town where {x} was born", "the birthplace of {x}"),
        ("In which town was {x} born?", "Where was {x} born?"),
    ),
    "born_year": Relation(
        "was born in the year",
        "person",
        "year",
        ("{S} was born in {o}.", "{S} was born in the spring of {o}."),
        (),
        (),
        ("In what year was {x} born?", "When was {x} born?"),
    ),
    "studied_at": Relation(
        "studied at",
        "person",
        "academy",
        ("{S} studied at {o}.", "{S} took a degree from {o}.", "{S} was educated at {o}."),
        ("{S} counts the {noun} {o} among its graduates.", "The {noun} {o} was a student of {s}."),
        ("the school where {x} studied",),
        ("Where did {x} study?", "At which school was {x} educated?"),
    ),
    "works_for": Relation(
        "worked for",
        "person",
        "institute",
        ("{S} worked for {o}.", "{S} spent most of a career at {o}.", "{S} was employed by {o} for decades."),
        ("{S} employed the {noun} {o}.", "The {noun} {o} was on the staff of {s}."),
        ("the organisation that {x} worked for", "the employer of {x}"),
        ("For which organisation did {x} work?", "Who employed {x}?"),
    ),
    "teacher": Relation(
        "was a pupil of",
        "person",
        "person",
        ("{S} was a pupil of {o}.", "{S} learned the trade from {o}.", "{S} was taught by {o}."),
        ("{S} taught the {noun} {o}.", "The {noun} {o} was a pupil of {s}."),
        ("the teacher of {x}", "the person who taught {x}"),
        ("Who taught {x}?", "Who was the teacher of {x}?"),
    ),
    "spouse": Relation(
        "was married to",
        "person",
        "person",
        ("{S} was married to {o}.", "{S} married {o}.", "{S} lived for years with {o}, by then married."),
        (),
        ("the person whom {x} married", "the spouse of {x}"),
        ("Whom did {x} marry?", "Who was married to {x}?"),
    ),
    "seat": Relation(
        "has its seat in",
        "organisation",
        "town",
        ("{S} has its seat in {o}.", "{S} is based in {o}.", "The rooms of {s} are in {o}."),
        ("{S} is home to {o}.", "{S} houses {o} in a former granary."),
        ("the town where {x} is based", "the seat of {x}"),
        ("In which town is {x} based?", "Where does {x} have its seat?"),
    ),
    "founder": Relation(
        "was founded by",
        "organisation",
        "person",
        (
            "{S} was founded by {o}.",
            "{S} was established by {o}.",
            "{S} owes its existence to {o}, its founder.",
        ),
        ("{S} founded {o}.", "{S} was the founder of {o}."),
        ("the founder of {x}", "the person who founded {x}"),
        ("Who founded {x}?", "Who was the founder of {x}?"),
    ),
    "founded_year": Relation(
        "was founded in",
        "organisation",
        "year",
        ("{S} was founded in {o}.", "{S} opened its doors in {o}.", "{S} dates from {o}."),
        (),
        (),
        ("In what year was {x} founded?", "When was {x} founded?"),
    ),
    "creator": Relation(
        "was made by",
        "work",
        "person",
        (
            "{S} was {made} by {o}.",
            "{S} is the best-known work of {o}.",
            "{o}, the {maker} of {s}, never signed it.",
        ),
        ("{S} {make} {o}.", "{S} was the {maker} of {o}."),
        ("the {maker} of {x}", "the person who {make} {x}"),
        ("Who {make} {x}?", "Who was the {maker} of {x}?"),
    ),
    "made_year": Relation(
        "was finished in",
        "work",
        "year",
        ("{S} was finished in {o}.", "{S} dates from {o}.", "{S} first appeared in {o}."),
        (),
        (),
        ("In what year was {x} finished?",),
    ),
    "publisher": Relation(
        "was issued by",
        "work",
        "press",
        ("{S} was issued by {o}.", "{S} reached the public through {o}.", "{S} was brought out by {o}."),
        ("{S} issued {o}.", "{S} brought out {o}."),
        ("the firm that issued {x}", "the firm that brought out {x}"),
        ("Who issued {x}?", "Who brought out {x}?"),
    ),
    "dedicated_to": Relation(
        "is dedicated to",
        "work",
        "person",
        ("{S} is dedicated to {o}.", "{S} carries a dedication to {o}."),
        (),
        ("the person to whom {x} is dedicated",),
        ("To whom is {x} dedicated?",),
    ),
    "country": Relation(
        "lies in",
        "town",
        "country",
        ("{S} lies in {o}.", "{S} belongs to {o}.", "{S} is one of the older towns of {o}."),
        (),
        ("the country to which {x} belongs", "the country where {x} lies"),
        ("In which country does {x} lie?", "To which country does {x} belong?"),
    ),
    "river": Relation(
        "stands on",
        "town",
        "river",
        ("{S} stands on {o}.", "{S} grew up at a ford over {o}.", "{o} runs through {s}."),
        ("{S} flows past the walls of {o}.",),
        ("the river on which {x} stands", "the river that runs through {x}"),
        ("On which river does {x} stand?", "Which river runs through {x}?"),
    ),
    "craft": Relation(
        "is known for",
        "town",
        "craft",
        (
            "{S} is known for its {o}.",
            "The workshops of {s} have long made {o}.",
            "{S} lives from the trade in {o}.",
        ),
        (),
        (),
        ("What is {x} known for making?", "For which product is {x} known?"),
    ),
    "capital": Relation(
        "has the capital",
        "country",
        "town",
        (
            "The capital of {s} is {o}.",
            "{S} is governed from {o}.",
            "{S} has had its capital in {o} since the last war.",
        ),
        (),
        ("the capital of {x}",),
        ("What is the capital of {x}?",),
    ),
    "source": Relation(
        "rises in",
        "river",
        "country",
        ("{S} rises in {o}.", "{S} has its source in {o}.", "The springs of {s} are in {o}."),
        (),
        ("the country where {x} rises",),
        ("In which country does {x} rise?", "Where is the source of {x}?"),
    ),
}

# Two facts in one sentence of the head's document; {o} and {p} are their tails.
PAIRS = {
    ("born_in", "born_year"): ("{S} was born in {o} in {p}.", "{S} was born in {p}, in {o}."),
    ("studied_at", "teacher"): (
        "{S} studied at {o}, where {p} taught.",
        "{S} attended {o} and was a pupil of {p}.",
    ),
    ("founder", "founded_year"): ("{S} was founded in {p} by {o}.", "In {p}, {o} founded {s}."),
    ("creator", "made_year"): ("{S} was {made} by {o} in {p}.", "{o} {make} {s} in {p}."),
    ("country", "river"): ("{S} lies on {p} in {o}.", "{S} stands where {p} widens, in {o}."),
    ("creator", "publisher"): ("{S}, {made} by {o}, was issued by {p}.",),
}

# Facts that nobody asks for: (words, category of the tail, templates). An entity may have several of each.
CHATTER = {
    "person": (
        ("visited", "town", ("{S} once spent a summer in {o}.", "{S} visited {o} twice and disliked it.")),
        ("wrote to", "person", ("{S} exchanged letters with {o}.", "{S} quarrelled in print with {o}.")),
        ("admired", "work", ("{S} owned a copy of {o}.", "{S} gave a lecture on {o}.")),
        ("advised", "organisation", ("{S} advised {o} for a short time.", "{S} gave books to {o}.")),
    ),
    "town": (
        (
            "has a street named after",
            "person",
            ("{S} has a street named after {o}.", "A statue of {o} stands in {s}."),
        ),
        ("trades with", "town", ("{S} trades with {o}.", "A coach runs from {s} to {o}.")),
        ("shows", "work", ("{S} showed {o} in its town hall.",)),
    ),
    "organisation": (
        ("corresponds with", "organisation", ("{S} lends books to {o}.", "{S} shares a garden with {o}.")),
        ("has a branch in", "town", ("{S} keeps a small reading room in {o}.", "{S} once met in {o}.")),
        ("honoured", "person", ("{S} gave a medal to {o}.", "{S} owns the letters of {o}.")),
    ),
    "work": (
        ("mentions", "town", ("{S} mentions {o}.", "A scene of {s} is set in {o}.")),
        ("was praised by", "person", ("{S} was praised by {o}.", "{o} kept {s} in a locked drawer.")),
        ("is compared with", "work", ("{S} is often compared with {o}.",)),
        ("is kept by", "organisation", ("A copy of {s} is kept by {o}.",)),
    ),
    "country": (
        ("traded with", "country", ("{S} fought a short war with {o}.", "{S} and {o} share a coinage.")),
        ("honours", "person", ("{S} printed {o} on a stamp.",)),
    ),
    "river": (
        ("was mapped by", "person", ("{S} was mapped by {o}.", "{o} crossed {s} on foot in a hard winter.")),
        ("meets", "river", ("{S} meets {o} in the marshes.",)),
    ),
}
UNSTATED = (
    ("person", "In which year did {x} die?"), ("person", "What language did {x} speak at home?"),
    ("person", "How many children did {x} have?"), ("organisation", "What is the motto of {x}?"),
    ("town", "Who is the mayor of {x}?"), ("work", "How much did {x} cost when it was sold?"),
)  # fmt: skip
# (relation, question about two heads); the first group is answered by a name, the second by yes or no.
EARLIER = (
    ("born_year", "Who was born first, {x} or {y}?"),
    ("founded_year", "Which was founded first, {x} or {y}?"),
    ("made_year", "Which was finished first, {x} or {y}?"),
)
SAME = (
    ("born_in", "Were {x} and {y} born in the same town?"),
    ("country", "Do {x} and {y} lie in the same country?"),
    ("seat", "Are {x} and {y} based in the same town?"),
    ("river", "Do {x} and {y} stand on the same river?"),
)
