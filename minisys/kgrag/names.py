"""Names to keys: two spellings of a name that differ in form only get one key.

Case, accents, punctuation, articles, possessives, abbreviations (“Corp.”, “St.”), numerals (“II”, “2” and
“two”), dates and thousands separators are form. What needs a context (surnames, acronyms) is left to
`minisys.kgrag.entities`.
"""

import re
import unicodedata
from collections.abc import Callable, Collection
from functools import lru_cache


def words_of(text: str, kind: Callable = frozenset) -> Collection[str]:
    """The words of a list that is written as text."""
    return kind(text.split())


# Initialisms that hardly any text defines. Read only where they are written in capitals.
WELL_KNOWN = {
    "US": "united states",
    "USA": "united states",
    "UK": "united kingdom",
    "UN": "united nations",
    "EU": "european union",
    "USSR": "soviet union",
    "UAE": "united arab emirates",
}
_PHRASES = {
    "united states of america": "united states",
    "union of soviet socialist republics": "soviet union",
    "first world war": "world war 1",
    "second world war": "world war 2",
}
_ARTICLES = frozenset(["the", "a", "an", "this", "that", "these", "those"])
_SPELLED_OUT = {
    "&": "and", "corp": "corporation", "inc": "incorporated", "ltd": "limited", "co.": "company",
    "jr": "junior", "sr": "senior", "dept": "department", "univ": "university", "bros": "brothers",
    "mt.": "mount", "ft.": "fort", "assn": "association", "govt": "government", "intl": "international",
    "vs": "versus",
}  # fmt: skip
_SOFT_TITLES = words_of("mr mrs ms dr prof professor doctor sir dame rev reverend")
_NUMBERS = {word: place + 1 for place, word in enumerate(words_of(
    "one two three four five six seven eight nine ten eleven twelve thirteen", tuple
))}  # fmt: skip
_ROMAN = re.compile(r"(?=[IVX])X{0,3}(?:IX|IV|V?I{0,3})$")
_MONTHS = {}
_YEAR = "january february march april may june july august september october november december"
for _number, _name in enumerate(words_of(_YEAR, tuple), start=1):
    _MONTHS[_name] = _MONTHS[_name[:3]] = _number
_MONTHS["sept"] = 9
# Common first names, to tell “Anna Freud” from “Vyšehrad Cemetery”. Others count where a text says he or she.
GIVEN_NAMES = words_of("""
    aaron abdul abraham adam agnes ahmed alan albert alex alexander alexandra alfred ali alice alison
    allen amanda amy ana anders andré andrea andrew angela anna anne anthony antonio arnold arthur audrey
    barack barbara ben benjamin bernard beth betty bill billy bob bobby brad brandon brian bruce carl
    carla carlos carmen carol caroline catherine cecilia charles charlie charlotte chris christian
    christina christine christopher claire clara claude colin corey craig daniel david deborah dennis
    diana diego dmitri don donald dorothy douglas edgar edith edmund eduardo edward edwin eleanor elena
    elisabeth elizabeth ella ellen emily emma enrico eric erik ernest eugene eva evelyn fatima felix
    fernando florence francis francisco frank franz fred frederick friedrich gabriel gary gavin george
    gerald giovanni giuseppe gordon grace graham grant greg gregory guy hans harold harry heather hector
    helen henri henry herbert hermann howard hugh ian ibrahim igor irene isaac isabel ivan jack jacob
    jacques jake james jan jane janet jason jean jeff jeffrey jennifer jenny jeremy jerry jesse jessica
    jim jimmy joan joe johann john johnny jon jonathan jorge josé joseph joshua juan judith julia julian
    julie juan karen karl kate katherine kathleen keith kelly ken kenneth kevin kim kurt larry laura
    lauren lawrence leo leon leonard leonardo leslie lewis linda lisa louis louise lucas lucy ludwig luis
    luke manuel marcel marco marcus margaret maria marie marilyn mario mark martha martin mary matt
    matthew maurice mauro max megan mehmet michael michel michelle miguel mike mohammed monica muhammad
    nancy natalie nathan neil nicholas nicolas nicole nikolai nina noah norman oliver olivia oscar otto
    pablo pamela patricia patrick paul paula pedro peter philip pierre rachel ralph raymond rebecca rené
    ricardo richard rick rita robert roberta roger roland ronald rosa ross roy russell ruth ryan sally sam
    samantha samuel sandra sara sarah scott sean sebastian sergei sharon simon sofia sophia sophie stanley
    stefan stephen steve steven stuart susan suzanne sven sylvia ted teresa terry theodore theresa thomas
    tim timothy tom tony tracy ursula vera veronica victor vincent virginia vladimir walt walter wayne
    wendy werner wilhelm will william winston wolfgang yuri yusuf yvonne
""")
_DAY_FIRST = re.compile(r"(\d{1,2})(?:st|nd|rd|th)?(?: of)? ([a-z]+)\.?,? (\d{4})")
_MONTH_FIRST = re.compile(r"([a-z]+)\.? (\d{1,2})(?:st|nd|rd|th)?,? (\d{4})")
_MONTH_YEAR = re.compile(r"([a-z]+)\.?,? (?:of )?(\d{4})")
_ISO = re.compile(r"(\d{4})-(\d\d)-(\d\d)")
_NO_ACCENT = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "æ": "ae", "œ": "oe", "ı": "i", "ð": "d", "þ": "th"}
)
_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "‑": "-"})
_INITIALISM = re.compile(r"(?:[A-Z]\.){2,}[A-Z]?|[A-Z](?:[A-Z0-9&]|\.(?=[A-Z]))*[A-Z0-9]")


@lru_cache(maxsize=1 << 16)
def normalise(name: str) -> str:
    """The key of a name: lower-case words with single blanks, or capitals for a lone initialism.

    “The U.S. Army” gives ``united states army``, “N.A.S.A.” gives ``NASA``; a blank name gives an empty key.
    """
    text = unicodedata.normalize("NFKC", name).translate(_QUOTES).strip().strip("\"'.,;:!?()[]")
    text = re.sub(r"\b([A-Z]{1,3}) & ([A-Z])\b(?! ?\w)", r"\1&\2", _closed(text, name))
    words = text.split()
    while len(words) > 1 and words[0].lower() in _ARTICLES and not words[0].isupper():
        words = words[1:]
    if words and words[-1][-2:] in ("'s", "s'"):
        words[-1] = words[-1][:-2] if words[-1].endswith("'s") else words[-1][:-1]
    date = _date(" ".join(words).lower())
    if date:
        return date
    if len(words) == 1 and is_initialism(words[0]):
        letters = words[0].replace(".", "")
        return WELL_KNOWN.get(letters, letters)
    if len(words) > 2 and words[0].rstrip(".").lower() in _SOFT_TITLES:
        words = words[1:]
    plain = " ".join(part for place in range(len(words)) for part in _word(words, place))
    return _PHRASES.get(plain, plain) or fold(name.strip())  # “!!!” is a band


def is_initialism(word: str) -> bool:
    """Whether a word is written like one: “NASA”, “U.S.”, “H2O”, “AT&T”; at most eight letters."""
    return bool(_INITIALISM.fullmatch(word)) and len(word.replace(".", "")) <= 8


def fold(text: str) -> str:
    """Lower case without accents."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.casefold().translate(_NO_ACCENT))
    return "".join(char for char in decomposed if not unicodedata.combining(char))


def _closed(text: str, name: str) -> str:
    """Give back what stripping took from “Inception (film)” and from “U.S.”."""
    if text.count("(") > text.count(")"):
        text += ")"
    if re.fullmatch(r"(?:[A-Z]\.)+[A-Z]", text):
        text += "."
    last = text.rsplit(" ", 1)[-1].lower()
    return text + "." if last in ("co", "st") and name.rstrip("\"' ").endswith(".") else text


def _word(words: list[str], place: int) -> list[str]:
    word = words[place]
    last = place == len(words) - 1
    if word.isascii() and word.isalpha() and not word.isupper():  # most words
        lowered = word.lower()
        if lowered not in _SPELLED_OUT and lowered not in _NUMBERS:
            return [lowered]
    bare = word.strip("\"'.,;:!?()[]")
    if is_initialism(bare if "." not in bare else bare + "."):
        letters = bare.replace(".", "")
        if letters in WELL_KNOWN:
            return WELL_KNOWN[letters].split(" ")
        if "." in bare and last and place:
            return [letters.lower()]  # “Washington, D.C.”
        if "." in bare or (place == 0 and len(words) == 2 and len(letters) <= 3 and letters.isalpha()):
            return list(letters.lower())  # “J.R.R. Tolkien”, “JRR Tolkien”: initials
    if place and _ROMAN.fullmatch(bare) and (last or len(bare) > 1):
        return [str(_roman(bare))]
    lowered = fold(word)
    if lowered.strip(",") == "st.":
        return ["street" if last and place else "saint"]
    for form in (lowered.strip(","), lowered.strip(".,")):
        if form in _SPELLED_OUT:
            return [_SPELLED_OUT[form]]
    if place and last and lowered in _NUMBERS:
        return [str(_NUMBERS[lowered])]
    lowered = re.sub(r"(?<=\d),(?=\d{3})", "", lowered)
    lowered = re.sub(r"'s$|(?<=[^\W\d_])['.]", "", lowered)
    return re.findall(r"\d+\.\d+|\w+|[+#$€£%]", lowered)


def _roman(text: str) -> int:
    values = [{"I": 1, "V": 5, "X": 10}[char] for char in text]
    return sum(-v if v < max(values[i:]) else v for i, v in enumerate(values))


def _date(text: str) -> str | None:
    for pattern, order in ((_DAY_FIRST, (2, 1, 0)), (_MONTH_FIRST, (2, 0, 1)), (_ISO, (0, 1, 2))):
        match = pattern.fullmatch(text)
        if match:
            year, month, day = (match.groups()[place] for place in order)
            number = int(month) if month.isdigit() else _MONTHS.get(month)
            return f"{year}-{number:02d}-{int(day):02d}" if number else None
    match = _MONTH_YEAR.fullmatch(text)
    number = _MONTHS.get(match[1]) if match else None
    return f"{match[2]}-{number:02d}" if number else None
