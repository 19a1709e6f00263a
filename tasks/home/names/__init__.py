"""Names and other free values, one list per file, each entry in exactly one split."""

from __future__ import annotations

import hashlib
import random
import re
from functools import cache
from pathlib import Path

from tasks.home import languages
from tasks.home.languages.agreement import Noun

FOLDER = Path(__file__).parent
MEDIA_LISTS = (
    "media_artist", "media_album", "media_track", "media_playlist", "media_podcast", "media_movie",
    "media_tv_show",
)  # fmt: skip

# Template lists that draw from another list's file.
_FILES = {"shopping_list_item": "shopping_item", "todo_list_item": "todo_item"}
_FILES |= {"input_button": "button"}

# Words a template itself uses for a whole class ("the blinds", "the garage door"): as a name they
# would have two readings.
_CLASS_WORDS = {
    "light", "lights", "lighting", "lamp", "lamps", "fan", "fans", "awning", "awnings", "blind",
    "blinds", "curtain", "curtains", "door", "doors", "garage door", "garage doors", "gate", "gates",
    "shade", "shades", "shutter", "shutters", "window", "windows", "lock", "locks", "switch",
    "switches", "media", "media player", "media players", "music", "mower", "lawn", "lawn mower",
    "shopping", "volume", "brightness", "timer", "temperature",
}  # fmt: skip

# A title that holds its own medium has two readings: "play the white album" may or may not say
# that it is an album.
_MEDIUM = re.compile(r"\b(album|artist|film|movie|music|playlist|podcast|show|song|track)\b")

# Lists of names that people make up.
INVENTED = frozenset({
    "area", "climate", "cover", "fan", "lawn_mower", "light", "lock", "media_player", "scene", "sensor",
    "switch", "timer_name", "todo", "vacuum", "valve", "weather",
})  # fmt: skip
_ONSETS = (
    "b bl br c ch cl d dr f fl fr g gl gr h j k kl l m n p ph pl qu r s sh sl st t th tr v w y z"
)
_VOWELS = "a a a e e e i i i o o o u ai ea ee io oo ou y"
_CODAS = "d l ld m n n nd ng nt r r rk rn s sk st t th x"
_LONG_WORD = re.compile(r"(?<!\S)[a-z]{4,}(?!\S)")  # and no "the" or "and"

# Everyday places stay in train: a product that has not met "kitchen" serves nobody.
_ALWAYS_TRAIN = frozenset({
    "kitchen", "living room", "bedroom", "bathroom", "hallway", "office", "garage", "dining room",
    "ground", "first", "second", "upstairs", "downstairs", "home", "work",
})  # fmt: skip


class NameLists:
    """Draws from the list files; a name of test is never drawn for train or dev."""

    def __init__(self, seed: int, held_out: float) -> None:
        self._splits: dict[str, dict[str, list[str]]] = {}
        self._everyday: dict[str, list[str]] = {}
        self._proper: list[str] = []
        self._held_out: set[str] = set()
        self.everyday_share = self.invented_share = 0.0
        for list_name, names in _english().items():
            self._splits[list_name] = _split(seed, held_out, names)

    def add_train_only(
        self, seed: int, held_out: float, everyday_share: float, invented_share: float = 0.0
    ) -> None:
        """Let train draw from the longer lists, too, put together from words, meet what every home
        has ("kitchen", "desk lamp") more often than the rest, and some words that nobody has heard.

        A name whose hash belongs to a held-out split is left out. Not part of the lists from the
        start: which phrasings are held out is found by drawing, and longer lists draw otherwise.

        Args:
            everyday_share: of the names drawn for train, from the lists that have everyday ones.
            invented_share: of the others, from the lists of `INVENTED`; see `invent`.
        """
        self.everyday_share, self.invented_share = everyday_share, invented_share
        proper = (
            n for stem in ("media_artist", "person", "weather") for n in self.of(stem, "train")
        )
        shares_of_all = self._splits.values()
        self._held_out = {n.lower() for s in shares_of_all for n in (*s["dev"], *s["test"])}
        self._proper = sorted({word for name in proper for word in _LONG_WORD.findall(name)})
        for path in sorted((FOLDER / "train_only").glob("*.txt")):
            shares = self._splits[path.stem]
            made = sorted({*path.read_text(encoding="utf-8").splitlines()} - _CLASS_WORDS)
            kept = _split(seed, held_out, made)["train"]
            shares["train"] = sorted({*shares["train"], *kept})
        for path in sorted((FOLDER / "everyday").glob("*.txt")):
            usual = {*path.read_text(encoding="utf-8").splitlines()}
            self._everyday[path.stem] = sorted(usual & {*self._splits[path.stem]["train"]})

    def noun(self, list_name: str, name: str) -> Noun | None:
        """What is known of a name as a noun; nothing is of an English one."""
        del list_name, name
        return None

    def has(self, list_name: str) -> bool:
        """Whether there is a list of that name."""
        return _FILES.get(list_name, list_name) in self._splits

    def pick(self, list_name: str, split: str, rng: random.Random) -> str:
        """One entry of the list's share for ``split``."""
        name = _FILES.get(list_name, list_name)
        everyday = self._everyday.get(name) if split == "train" else None
        if everyday and rng.random() < self.everyday_share:
            return rng.choice(everyday)
        picked = rng.choice(self._splits[name][split])
        share = self.invented_share if split == "train" and name in INVENTED else 0.0
        # Without a share no number is drawn: what is held out is found by drawing.
        if not share or rng.random() >= share:
            return picked
        invented = invent(picked, self._proper, rng)
        return picked if invented in self._held_out else invented

    def of(self, list_name: str, split: str) -> list[str]:
        """The list's share for ``split``."""
        return self._splits[_FILES.get(list_name, list_name)][split]

    def is_everyday(self, list_name: str, name: str) -> bool:
        """Whether most homes have the entry, so that anyone knows how it is spelt."""
        return name in self._everyday.get(_FILES.get(list_name, list_name), ())

    def all(self, list_name: str) -> list[str]:
        """Every entry of a list, all splits together."""
        shares = self._splits[_FILES.get(list_name, list_name)].values()
        return sorted(name for share in shares for name in share)

    def list_names(self) -> list[str]:
        """Names of all lists."""
        return sorted(self._splits)


class ForeignNames(NameLists):
    """The lists of another language; media are those of English and of the language's own.

    A name in two languages is in the same split in both, so that each language has the same splits
    whether it is alone or beside others.
    """

    def __init__(self, seed: int, held_out: float, language: languages.Language) -> None:
        self._splits = {}
        self._everyday = {}
        self.everyday_share = self.invented_share = 0.0
        self._nouns: dict[str, dict[str, Noun]] = {}
        always = _ALWAYS_TRAIN | (_everyday_places() - _all_english())
        lists = {name: list(nouns) for name, nouns in language.names().items()}
        for list_name in MEDIA_LISTS:
            lists.setdefault(list_name, []).extend(Noun("", n) for n in _english()[list_name])
        common = language.common[0]
        for list_name, nouns in lists.items():
            kept = {noun.text: noun for noun in nouns if noun.text.lower() not in common}
            self._nouns[list_name] = kept
            self._splits[list_name] = _split(seed, held_out, sorted(kept), always)

    def add_everyday(self, language: languages.Language, everyday_share: float) -> None:
        """Let train meet what every home has more often than the rest; as `add_train_only`."""
        self.everyday_share = everyday_share
        for list_name, usual in language.everyday().items():
            self._everyday[list_name] = sorted({*usual} & {*self._splits[list_name]["train"]})

    def noun(self, list_name: str, name: str) -> Noun | None:
        """The name as a noun: gender, and how one is at the place."""
        return self._nouns[_FILES.get(list_name, list_name)][name]


def invent(name: str, proper: list[str], rng: random.Random) -> str:
    """The name with one word in place of which stands another that nobody has heard there: one of
    ``proper`` nouns or one of made-up syllables, "brisk lamp" becomes "nairobi lamp" or "quandor lamp".
    A student that meets only the words of lists takes any other for no name."""
    words = name.split()
    if rng.random() < 0.5:
        new = rng.choice(proper)
    else:
        count = rng.choice((1, 2, 2, 3))
        syllables = [
            rng.choice(_ONSETS.split()) + rng.choice(_VOWELS.split()) for _ in range(count)
        ]
        new = "".join(syllables) + rng.choice(_CODAS.split())
    words[rng.randrange(len(words))] = new
    return " ".join(words)


@cache
def _english() -> dict[str, list[str]]:
    found = {}
    for path in sorted(FOLDER.glob("*.txt")):
        names = [name for name in path.read_text(encoding="utf-8").splitlines() if name]
        if path.stem in MEDIA_LISTS:
            names = [name for name in names if not _MEDIUM.search(name)]
        found[path.stem] = sorted(set(names) - _CLASS_WORDS)
    return found


@cache
def _all_english() -> frozenset[str]:
    return frozenset(name for names in _english().values() for name in names)


@cache
def _everyday_places() -> frozenset[str]:
    """Rooms and floors that stay in train, of every language: one name, one split."""
    return frozenset(
        name.lower()
        for code in languages.CODES
        if code != "en"
        for list_name in ("area", "floor")
        for name in languages.load(code).everyday()[list_name]
    )


def _split(
    seed: int, held_out: float, names: list[str], always: frozenset[str] = _ALWAYS_TRAIN
) -> dict[str, list[str]]:
    # One hash for all lists: a name that stands in two of them is in the same split in both.
    def digest(name: str) -> bytes:
        return hashlib.sha256(f"{seed}:name:{name.lower()}".encode()).digest()

    ranked = sorted((name for name in names if name.lower() not in always), key=digest)
    shares: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for name in ranked:
        position = digest(name)[0] / 256
        share = "test" if position < held_out else "dev" if position < 1.5 * held_out else "train"
        shares[share].append(name)
    kept = [name for name in names if name.lower() in always]
    shares["train"] = sorted(shares["train"] + kept)
    return shares
