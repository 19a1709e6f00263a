"""Spanish articles by gender and number, contractions, and endings of what is said of a noun."""

from __future__ import annotations

import random
import re

from tasks.home.languages.agreement import PLURALS, Noun, Nouns, Refused

_DEFINITE = {"m": "el", "f": "la", "p": "los", "q": "las"}
_ONE = {"m": "un", "f": "una", "p": "unos", "q": "unas"}
_OWN = {"m": "mi", "f": "mi", "p": "mis", "q": "mis"}
_ENDING = {"m": "o", "f": "a", "p": "os", "q": "as"}
_SHORT = {"de el": "del", "a el": "al"}
_WHOLE = {"del": "de", "al": "a"}
_PREPOSITION = "en|de|del|al|a|con|para|por"
_DETERMINER = "el|la|los|las|mi|mis|un|una|unos|unas"
_MANY = r"tod[oa]s(?: l[oa]s)?|cuánt[oa]s|qué|hay(?: algun[oa]s)?"
_STATES = (
    "encendid|prendid|conectad|apagad|desconectad|abiert|cerrad|echad|detectad|activad|ocupad"
    "|inactivad|desactivad|despejad|llamad|denominad"
)
_UNITS = {"horas": "hora", "minutos": "minuto", "segundos": "segundo", "grados": "grado"}
_OF_IT = re.compile(
    r"(velocidad|brillo|color|posición|temperatura|volumen|sonido|estado|restante|ventilación) $",
    re.I,
)


def correct(text: str, nouns: Nouns, rng: random.Random) -> str:
    """A Spanish sentence with every article, preposition and ending as its noun asks for.

    Raises:
        Refused: more than one of a noun that has no plural, or a place without an article.
    """
    subjects: list[str] = []

    def put(match: re.Match[str]) -> str:
        noun = nouns[match["noun"]]
        if noun.gender == "#":
            return match[0]
        if match["many"]:
            return _many(match["many"].lower(), noun, subjects)
        preposition, determiner = (match["preposition"] or "").lower(), match["determiner"] or ""
        if preposition in _WHOLE:
            preposition, determiner = _WHOLE[preposition], "el"
        if noun.place and not preposition and (noun.at or nouns.is_late(match)):
            preposition = noun.at or rng.choice(("de", "en"))
        if noun.place and preposition == "de" and match.start() == 0:
            preposition = "en"
        if not preposition and _OF_IT.search(match.string[: match.start()]):
            preposition = "de"
        if not preposition:
            subjects.append(noun.gender)
        if not noun.gender:
            if noun.place:
                raise Refused
            return f"{preposition} {match['noun']}".strip()
        own = match["noun"] in nouns.values
        if own and not determiner and (preposition or nouns.wants_article(match, rng)):
            determiner = "el"
        if determiner:
            determiner = _determiner(determiner.lower(), noun)
        front = f"{preposition} {determiner}".strip()
        return f"{_SHORT.get(front, front)} {match['noun']}".strip()

    pattern = (
        rf"(?:\b(?P<many>{_MANY}) )?(?:\b(?P<preposition>{_PREPOSITION}) )?"
        rf"(?:\b(?P<determiner>{_DETERMINER}) )?(?P<noun>{nouns.pattern})"
    )
    text = re.sub(pattern, put, nouns.units(text, _UNITS), flags=re.I)
    if not subjects or not subjects[0]:
        return text
    ending = _ENDING[subjects[0]]
    text = re.sub(rf"\b({_STATES})[oa]s?\b", rf"\1{ending}", text)
    text = re.sub(r"\btod[oa]s\b(?= y cada)", "tod" + ending, text)
    if not re.search(r"\bhay\b|\bhace", text):
        verb = "están" if subjects[0] in PLURALS else "está"
        text = re.sub(r"\best(á|án)\b", verb, text)
        text = re.sub(r"\b(es|son)\b", "son" if subjects[0] in PLURALS else "es", text)
    return text


def _many(said: str, noun: Noun, subjects: list[str]) -> str:
    plural = noun.plural or (noun.text if noun.gender in PLURALS else "")
    if not plural:
        raise Refused
    gender = "q" if noun.gender in ("f", "q") else "p"
    said = f"{said} los" if said in ("todos", "todas") else said
    subjects.append(gender)
    vowel = "a" if gender == "q" else "o"
    return (
        f"{re.sub(r'(?<=d)[oa]s|(?<=t)[oa]s|(?<=l)[oa]s|(?<=n)[oa]s', vowel + 's', said)} {plural}"
    )


def _determiner(said: str, noun: Noun) -> str:
    if said in ("mi", "mis"):
        return _OWN[noun.gender]
    return (_ONE if said in ("un", "una", "unos", "unas") else _DEFINITE)[noun.gender]
