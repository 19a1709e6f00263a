"""German articles by gender and case, contractions, and verbs by number."""

from __future__ import annotations

import random
import re

from tasks.home.languages.agreement import PLURALS, Noun, Nouns, Refused

_ARTICLES = {
    "nominative": {"m": "der", "f": "die", "n": "das", "p": "die", "q": "die"},
    "accusative": {"m": "den", "f": "die", "n": "das", "p": "die", "q": "die"},
    "dative": {"m": "dem", "f": "der", "n": "dem", "p": "den", "q": "den"},
}
_ENDINGS = {
    "nominative": {"m": "", "f": "e", "n": "", "p": "e", "q": "e"},
    "accusative": {"m": "en", "f": "e", "n": "", "p": "e", "q": "e"},
    "dative": {"m": "em", "f": "er", "n": "em", "p": "en", "q": "en"},
}
_WHOLE = {"im": "in", "am": "an", "vom": "von", "zum": "zu", "zur": "zu", "beim": "bei"}
_SHORT = {"in dem": "im", "an dem": "am", "von dem": "vom", "zu dem": "zum", "zu der": "zur",
          "bei dem": "beim"}  # fmt: skip
_ACCUSATIVE = ("für", "um")
_PREPOSITION = rf"in|an|auf|bei|von|aus|zu|mit|nach|{'|'.join((*_ACCUSATIVE, *_WHOLE))}"
_DETERMINER = r"der|die|das|dem|den|des|mein\w*|unser\w*"
_MANY = r"alle|sämtliche|welche|irgendwelche|wie ?viele"
_UNITS = {"Stunden": "Stunde", "Minuten": "Minute", "Sekunden": "Sekunde"}
_QUESTION = re.compile(
    r"(auf|was|wie|ist|sind|wer|wo|welche\w*|gibt|steht|stehen|läuft|hält|befindet|hat)\b", re.I
)
_HEAD = re.compile(r"[ -](Timer|Liste|Wetter)\b")
_OF_IT = re.compile(
    r"\b(Geschwindigkeit|Helligkeit|Farbe|Farbtemperatur|Position|Lautstärke|Temperatur|Heizung|Klimaanlage"
    r"|Thermostat|Lüftermodus|Lüfter) $",
    re.I,
)


def correct(text: str, nouns: Nouns, rng: random.Random) -> str:
    """A German sentence with every article and verb in the form its noun asks for.

    Raises:
        Refused: a place that has no article, or a plural name that would need an ending.
    """
    question = _QUESTION.match(text) is not None
    subjects: list[str] = []

    def put(match: re.Match[str]) -> str:
        noun = nouns[match["noun"]]
        if noun.gender == "#":
            return match[0]
        if _HEAD.match(match.string[match.end() :]):
            return match[0]  # "meinen Küche Timer": the article is that of the word to come
        if match["many"]:
            subjects.append("p")
            plural = noun.plural or (noun.text if noun.gender in PLURALS else "")
            if not plural:
                raise Refused
            return f"{match['many']} {plural}"
        preposition, determiner = (match["preposition"] or "").lower(), match["determiner"] or ""
        if preposition in _WHOLE:
            preposition, determiner = _WHOLE[preposition], determiner or "der"
        said = match["noun"]
        if noun.place and (
            preposition in ("in", "an", "auf") or (match.start() and not preposition)
        ):
            preposition, determiner = noun.at or "in", "der"
        own = match["noun"] in nouns.values
        if own and not preposition and _OF_IT.search(match.string[: match.start()]):
            preposition = "von"
        if (
            own
            and not preposition
            and re.search(r"(weiter|vorwärts|zurück) $", match.string[: match.start()])
        ):
            preposition = "an"
        if not preposition:
            subjects.append(noun.gender)
        if not noun.gender:
            if noun.place:
                raise Refused
            return f"{preposition} {said}".strip()
        if own and not determiner and (preposition or nouns.wants_article(match, rng)):
            determiner = "der"
        if not determiner:
            return f"{preposition} {said}".strip()
        return _phrase(preposition, determiner.lower(), noun, said, question)

    pattern = (
        rf"(?:\b(?P<many>{_MANY}) )?(?:\b(?P<preposition>{_PREPOSITION}) )?"
        rf"(?:\b(?P<determiner>{_DETERMINER}) )?(?P<noun>{nouns.pattern})"
    )
    text = re.sub(pattern, put, nouns.units(text, _UNITS), flags=re.I)
    many = re.search(rf"\b({_MANY}) (?!Grad)", text, re.I) or (subjects and subjects[0] in PLURALS)
    if subjects and many:
        return re.sub(r"\bist\b", "sind", re.sub(r"\bsteht\b", "stehen", text))
    if subjects:
        return re.sub(r"\bsind\b(?! es)", "ist", re.sub(r"\bstehen\b", "steht", text))
    return text


def _phrase(preposition: str, determiner: str, noun: Noun, said: str, question: bool) -> str:
    if preposition in _ACCUSATIVE or (preposition == "auf" and "liste" in noun.text.lower()):
        case = "accusative"
    elif preposition:
        case = "dative"
    else:
        case = "nominative" if question else "accusative"
    if case == "dative" and noun.gender in PLURALS and not noun.text.endswith(("n", "s")):
        raise Refused
    if determiner.startswith(("mein", "unser")):
        stem = "mein" if determiner.startswith("mein") else "unser"
        determiner = stem + _ENDINGS[case][noun.gender]
    else:
        determiner = _ARTICLES[case][noun.gender]
    front = f"{preposition} {determiner}".strip()
    return f"{_SHORT.get(front, front)} {said}"
