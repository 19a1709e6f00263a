"""French articles by gender, elision and contraction, and endings of what is said of a noun."""

from __future__ import annotations

import random
import re

from tasks.home.languages.agreement import PLURALS, VALUE, Noun, Nouns, Refused

_VOWEL = re.compile(r"[aàâeéèêiîoôuûyœæ]|h(?!all|angar|otte|ublot|aut|aie|amac)", re.I)
_DEFINITE = {"m": "le", "f": "la", "p": "les", "q": "les"}
_OWN = {"m": "mon", "f": "ma", "p": "mes", "q": "mes"}
_THIS = {"m": "ce", "f": "cette", "p": "ces", "q": "ces"}
_ONE = {"m": "un", "f": "une", "p": "des", "q": "des"}
_SHORT = {"de le": "du", "de les": "des", "à le": "au", "à les": "aux"}
_WHOLE = {"du": "de", "au": "à", "aux": "à"}
_PREPOSITION = "dans|de|du|à|au|aux|sur|pour|avec|par"
_DETERMINER = "le|la|les|mon|ma|mes|un|une|ce|cet|cette"
_MANY = {"tous les": ("tous les", "toutes les"), "tous mes": ("tous mes", "toutes mes"),
         "quels": ("quels", "quelles"),
         "combien de": ("combien de", "combien de"), "des": ("des", "des")}  # fmt: skip
_STATES = (
    "allumé|éteint|ouvert|fermé|verrouillé|déverrouillé|occupé|détecté|déclenché|désactivé|activé"
    "|présent|inoccupé|appelé|nommé|précédent|suivant"
)
_UNITS = {"heures": "heure", "minutes": "minute", "secondes": "seconde", "degrés": "degré"}


def correct(text: str, nouns: Nouns, rng: random.Random) -> str:
    """A French sentence with every article, preposition and ending as its noun asks for.

    Raises:
        Refused: more than one of a noun that has no plural, or a place without an article.
    """
    subjects: list[Noun] = []

    def put(match: re.Match[str]) -> str:
        noun = nouns[match["noun"]]
        if noun.gender == "#":
            return match[0]
        said = match["noun"]
        if match["many"]:
            feminine = noun.gender in ("f", "q")
            plural = noun.plural or (noun.text if noun.gender in PLURALS else "")
            if not plural:
                raise Refused
            subjects.append(Noun("q" if feminine else "p", plural))
            return _elide(f"{_MANY[match['many'].lower()][feminine]} ", plural, plural)
        preposition, determiner = (match["preposition"] or "").lower(), match["determiner"] or ""
        if preposition in _WHOLE:
            preposition, determiner = _WHOLE[preposition], "le"
        if noun.place and preposition in ("dans", "à", "sur"):
            preposition, determiner = noun.at or "dans", "le"
        if noun.place and not preposition and (noun.at == "à" or nouns.is_late(match)):
            preposition = noun.at or "dans"
        if not preposition:
            subjects.append(noun)
        if not noun.gender:
            if noun.place:
                raise Refused
            return _elide(f"{preposition} ".lstrip(), said, noun.text)
        own = match["noun"] in nouns.values
        if own and not determiner and (preposition or nouns.wants_article(match, rng)):
            determiner = "le"
        if preposition in ("dans", "sur"):
            determiner = determiner or "le"
        if determiner:
            determiner = _determiner(determiner.lower(), noun)
        front = f"{preposition} {determiner}".strip()
        if front in _SHORT and not (determiner == "le" and _VOWEL.match(noun.text)):
            front = _SHORT[front]
        return _elide(f"{front} ".lstrip(), said, noun.text)

    text = re.sub(rf"\b([ld])' ?(?={nouns.pattern})", r"\1e ", text, flags=re.I)
    pattern = (
        rf"(?:\b(?P<many>{'|'.join(_MANY)}) )?"
        rf"(?:\b(?P<preposition>{_PREPOSITION}) )?(?:\b(?P<determiner>{_DETERMINER}) )?"
        rf"(?P<noun>{nouns.pattern})"
    )
    text = nouns.units(text, _UNITS)
    text = re.sub(pattern, put, text, flags=re.I)
    text = re.sub(rf"\bde (?={VALUE})", lambda m: _before_number(m, nouns), text)
    return _endings(text, subjects[0]) if subjects else text


def _before_number(match: re.Match[str], nouns: Nouns) -> str:
    number = nouns.values.get(match.string[match.end()])
    return "d'" if number and number.gender == "#" and number.text in ("un", "une") else "de "


def _determiner(said: str, noun: Noun) -> str:
    if said in ("mon", "ma", "mes"):
        return "mon" if noun.gender == "f" and _VOWEL.match(noun.text) else _OWN[noun.gender]
    if said in ("ce", "cet", "cette"):
        return "cet" if noun.gender == "m" and _VOWEL.match(noun.text) else _THIS[noun.gender]
    return (_ONE if said in ("un", "une") else _DEFINITE)[noun.gender]


def _elide(front: str, said: str, text: str) -> str:
    if _VOWEL.match(text):
        front = re.sub(r"\b(l)[ea] $|\b(d)e $", lambda m: (m[1] or m[2]) + "'", front)
    return front + said


def _endings(text: str, subject: Noun) -> str:
    plural, feminine = subject.gender in PLURALS, subject.gender in ("f", "q")
    ending = ("e" if feminine else "") + ("s" if plural else "")
    text = re.sub(rf"\b({_STATES})e?s?\b", rf"\1{ending}", text)
    pronoun = ("elle" if feminine else "il") + ("s" if plural else "")
    verb = "sont" if plural else "est"
    which = ("quelle" if feminine else "quel") + ("s" if plural else "")
    text = re.sub(r"\bquel(?:le)?s? (est|sont)\b", f"{which} {verb}", text, flags=re.I)
    text = re.sub(r"\b(est|sont)-ils?\b|\b(est|sont)-elles?\b", f"{verb}-{pronoun}", text)
    return re.sub(
        rf"(?<!qui )(?<!où )\b(est|sont)(?= (?:{_STATES}|en cours|dans|sur|à|au))", verb, text
    )
