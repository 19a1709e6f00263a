"""Commands with their gold calls, sampled from sentence templates, and inputs that are no command.

A template's domain constraint picks the list a name is drawn from, so that nothing like "start
reading lamp mower" is said; values a slot takes and constants of the template's block are the gold.
Test is kept apart at the source: each name, template and out-of-scope query belongs to one split.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hassil.intents import RangeSlotList, TextSlotList
from hassil.numbers import get_rbnf_engine

from supertiny.calls import NO_CALL
from supertiny.errors import UserError
from supertiny.params.prepare import Prepare
from tasks.home import fractions, grammar, noise
from tasks.home.languages.agreement import Noun
from tasks.home.names import MEDIA_LISTS, NameLists

# "[mower]" after a name is left out: "clippy mower" would be a mower called "clippy" or "clippy mower".
_TAIL = re.compile(r"(?<=\{name\}) \[mower\]")

# "desk lamp" could be read as a lamp called "desk" or as one called "desk lamp"; we keep the reading
# in which the name is what was said, so templates that split it are left out.
_SPLITS_NAME = re.compile(r"\{name\} <light>")

# The rule makes "are" optional, and "all hall lights off" is a command without it, not a question.
_ALL_STATE = re.compile(r"<are_all>")

# Numbers people say; the grammar's own ranges allow 97 degrees and 83-hour timers.
PLAUSIBLE = {
    "temperature": [*range(12, 31), *range(15, 27), *(n + 0.5 for n in range(17, 25)), 55, 60, 65, 68,
                    70, 72, 75, 78, 80],
    "color_temperature": [*range(1800, 7000, 100), *range(2000, 6600, 500)],
    "timer_hours": [*range(1, 13), *range(1, 5), 24, 36, 48],
    "timer_minutes": [*range(1, 61), *range(5, 61, 5), 75, 90],
    "timer_seconds": [*range(1, 61), *range(5, 61, 5), 75, 90],
}  # fmt: skip

# Of train alone; those that are said as fractions, too ("to a quarter"), stand here more than once.
_EVERYDAY = (
    1, 2, 5, 10, 15, 15, 20, 20, 25, 25, 25, 30, 30, 33, 33, 33, 45, 45, 50, 50, 50, 60, 66, 66, 70,
    75, 75, 75, 80, 90, 100, 100,
)  # fmt: skip

_MAX_DRAWS = 1000  # of sentences that belong to another split or make no sense, in a row

_FLOOR_NOUNS = {"basement", "underground", "mezzanine", "penthouse", "entresol"}

# What chance makes of nested optional words and nobody says.
_NONSENSE = re.compile(
    r"\b(the|my|our|every|which|what) (the|my|our)\b(?! (day|shadow))"
    r"|\bis some\b|\b(the|my|our) (all|each|every)\b"
    r"|\b(in|on|at|of|across|around|throughout) (in|on|at|of|across|around|throughout)\b"
    r"|\b(is|are) (there|the|my|our) (on|off|open|closed|shut|locked|unlocked|opening|closing"
    r"|shutting|securely|occupied|detected|triggered|empty|clear|unoccupied)\b"
    r"|\b(?P<twice>\w+) (?P=twice)\b"
)


@dataclass(frozen=True, eq=False)
class Template:
    """One sentence template and what a command made from it always means."""

    tool: str
    slots: str  # the block's slot combination, for example area_brightness
    source: str  # "template" (the package's) or "natural" (ours)
    text: str
    sentence: grammar.Sentence
    constants: dict[str, Any]
    domains: tuple[str, ...]


@dataclass
class Draft:
    """A sentence while it is put together: pieces of text and what they mean."""

    pieces: list[noise.Piece] = field(default_factory=list)
    skeleton: list[str] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    number_words: bool = False


class Gold:
    """Rows for the stage `prepare`; `stream` is deterministic in the params and the split.

    English; `tasks.home.foreign` has what is other in other languages.
    """

    manner = noise.ENGLISH
    _unsaid = frozenset({"the", "my", "our", "a", "an", "please"})
    _plausible: Mapping[str, list[Any]] = PLAUSIBLE
    inflected = False  # words of the grammar's own lists ("doors") change with the sentence

    def __init__(self, params: Prepare) -> None:
        self.params = params
        self.lists = NameLists(params.seed, params.held_out_share)
        self._intents = grammar.parse(grammar.package_grammar())
        self._numbers = get_rbnf_engine(grammar.LANGUAGE)
        self._templates = self._load_templates()
        self._split_of_template, self._held_out_skeletons = self._split_templates()
        shares = (params.everyday_share, params.invented_share)
        self.lists.add_train_only(params.seed, params.held_out_share, *shares)
        self._out_of_scope_templates = []
        for template in _templates(grammar.own_grammar("train_only/*.yaml"), "natural"):
            if template.tool == NO_CALL.name:
                self._out_of_scope_templates.append(template)
            else:
                self._templates.append(template)
                self._split_of_template[template] = "train"

    def stream(self, split: str) -> Iterator[dict[str, Any]]:
        """Rows without end: query, call, source, template, names, slices."""
        rng = random.Random(f"{self.params.seed}:{split}")
        no_calls = self._out_of_scope(split, rng)
        by_tool = self._by_tool(split)
        tools = sorted(by_tool)
        ways = {tool: _ways(by_tool[tool], split) for tool in tools}
        weights = [ways[tool] ** (1 - self.params.tool_balance) for tool in tools]
        while True:
            if rng.random() < self.params.no_call_share:
                yield next(no_calls)
                continue
            yield self._any_command(by_tool, tools, weights, split, rng)

    def _any_command(
        self,
        by_tool: dict[str, dict[tuple[str, str], list[Template]]],
        tools: list[str],
        weights: list[float],
        split: str,
        rng: random.Random,
    ) -> dict[str, Any]:
        # A drawn sentence may belong to another split or make no sense: then another, so that the
        # shares stay as the params say.
        for _ in range(_MAX_DRAWS):
            groups = by_tool[rng.choices(tools, weights)[0]]
            for _ in range(50):  # without a second try, tools of few templates would be rare
                row = self._command(self._pick_template(groups, split, rng), split, rng)
                if row is not None:
                    return row
        raise UserError(f"tasks/home: no sentence found that may be in {split}; is a list empty?")

    # -- templates and their splits

    def _load_templates(self) -> list[Template]:
        sources = (("template", grammar.package_grammar()), ("natural", grammar.own_grammar()))
        return [
            template
            for source, raw in sources
            for template in _templates(raw, source)
            if not _SPLITS_NAME.search(template.text)
        ]

    def _split_templates(self) -> tuple[dict[Template, str], dict[str, str]]:
        """Split of each held-out template, and of each held-out phrasing of the other templates.

        Where a tool has few templates for a slot combination, holding one out would leave a meaning
        untaught: there single phrasings of a template are held out instead.
        """
        groups: dict[tuple[str, ...], list[Template]] = defaultdict(list)
        for template in self._templates:
            slots = template.slots if template.source == "template" else ""
            groups[(template.source, template.tool, slots)].append(template)
        whole: dict[Template, str] = {}
        phrasings: dict[str, str] = {}
        for (source, *_), group in groups.items():
            share = self.params.held_out_share
            share *= 0.5 if source == "natural" else 1  # train needs most of the ways people speak
            if len(group) >= 4:
                whole.update(self._hold_out(group, share, key=lambda template: template.text))
            else:
                phrasings.update(self._hold_out(self._phrasings(group), share, key=str))
        return whole, phrasings

    def _hold_out(self, items: list[Any], share: float, key: Any) -> dict[Any, str]:
        ranked = sorted(items, key=lambda item: stable_hash(self.params.seed, key(item)))
        test = max(1, round(len(ranked) * share)) if len(ranked) >= 4 else 0
        dev = max(1, test // 2) if len(ranked) >= 5 else 0
        splits = ["test"] * test + ["dev"] * dev
        return dict(zip(ranked, splits, strict=False))

    def _phrasings(self, group: list[Template]) -> list[str]:
        rng = random.Random(f"{self.params.seed}:phrasings")
        found = set()
        for template in group:
            for _ in range(60):
                draft = self._draft(template, "train", rng)
                if self._put_right(draft, rng):
                    found.add(self._key(template, draft))
        return sorted(found)

    def _by_tool(self, split: str) -> dict[str, dict[tuple[str, str], list[Template]]]:
        groups: dict[str, dict[tuple[str, str], list[Template]]] = defaultdict(dict)
        for template in self._templates:
            own = self._split_of_template.get(template, "train")
            by_phrasing = template not in self._split_of_template and split != "train"
            if own == split or by_phrasing:
                groups[template.tool].setdefault((template.slots, template.source), []).append(
                    template
                )
        return groups

    def _pick_template(
        self, groups: dict[tuple[str, str], list[Template]], split: str, rng: random.Random
    ) -> Template:
        share = self.params.natural_share if split == "train" else self.params.natural_test_share
        natural = rng.random() < share
        wanted = [key for key in groups if (key[1] == "natural") == natural] or list(groups)
        if split != "train":
            return rng.choice(groups[rng.choice(wanted)])
        sizes = [len(groups[key]) ** 0.5 for key in wanted]
        return rng.choice(groups[rng.choices(wanted, sizes)[0]])

    # -- commands

    def _command(self, template: Template, split: str, rng: random.Random) -> dict[str, Any] | None:
        draft = self._draft(template, split, rng)
        skeleton = self._key(template, draft)
        unseen_template = template in self._split_of_template
        if not unseen_template and self._held_out_skeletons.get(skeleton, "train") != split:
            return None
        if not self._put_right(draft, rng):
            return None
        train = split == "train"
        noisy = rng.random() < (self.params.noise_share if train else self.params.noise_test_share)
        polite = template.source == "template"  # ours have their own ways of being polite
        query = noise.speak(
            draft.pieces, rng, noisy=noisy, polite=polite, chatty=train, manner=self.manner
        )
        arguments = {**draft.arguments, **template.constants}
        if train and rng.random() < self.params.number_words_share:
            query = self._with_fractions(query, template.tool, arguments)
        slices = ["noise" if noisy else "clean"]
        if split != "train":
            slices.append("unseen_template" if unseen_template else "unseen_phrasing")
            slices += ["unseen_name"] if draft.names else []
        slices += ["number_words"] if draft.number_words else []
        slices += ["natural"] if template.source == "natural" else []
        return {
            "query": query,
            "call": {"name": template.tool, "arguments": arguments},
            "source": template.source,
            "template": skeleton,
            "names": sorted(draft.names),
            "slices": sorted(slices),
        }

    def _put_right(self, draft: Draft, rng: random.Random) -> bool:
        """Whether somebody would say the draft; another language corrects its grammar before."""
        del rng
        return not _NONSENSE.search(noise.join(draft.pieces))

    def _with_fractions(self, query: str, tool: str, arguments: dict[str, Any]) -> str:
        return fractions.say(query, tool, arguments)

    def _key(self, template: Template, draft: Draft) -> str:
        """A phrasing: the sentence with slots for values and without determiners and politeness."""
        words = "".join(draft.skeleton).replace("-", " ").split()
        kept = [word for word in words if word not in self._unsaid]
        return f"{template.tool}: {' '.join(kept)}"

    def _draft(self, template: Template, split: str, rng: random.Random) -> Draft:
        draft = Draft()
        self._say(template.sentence.expression, template, split, rng, draft)
        return draft

    def _say(
        self,
        expression: grammar.Expression,
        template: Template,
        split: str,
        rng: random.Random,
        draft: Draft,
    ) -> None:
        def say(item: grammar.Expression) -> None:
            self._say(item, template, split, rng, draft)

        if isinstance(expression, grammar.ListReference):
            self._say_value(expression, template, split, rng, draft)
        elif isinstance(expression, grammar.RuleReference):
            say(self._intents.expansion_rules[expression.rule_name].expression)
        elif isinstance(expression, grammar.Alternative):
            say(_choose(expression, split, rng))
        elif isinstance(expression, grammar.Permutation):
            for item in rng.sample(expression.items, len(expression.items)):
                draft.pieces.append(noise.Piece(" "))
                draft.skeleton.append(" ")
                say(item)
                draft.pieces.append(noise.Piece(" "))
                draft.skeleton.append(" ")
        elif isinstance(expression, grammar.Group):
            for item in expression.items:
                say(item)
        else:
            text = expression.original_text  # type: ignore[attr-defined]
            draft.pieces.append(noise.Piece(text))
            draft.skeleton.append(text)

    def _say_value(
        self,
        ref: grammar.ListReference,
        template: Template,
        split: str,
        rng: random.Random,
        draft: Draft,
    ) -> None:
        values = self._intents.slot_lists.get(ref.list_name)
        value: Any
        familiar, noun, literal = False, None, False
        if isinstance(values, RangeSlotList):
            everyday = self.lists.everyday_share if split == "train" else 0.0
            text, value = self._number(ref.list_name, values, everyday, rng)
            draft.number_words |= text.isalpha() or " " in text or "-" in text
            noun = self._number_noun(text)
        elif isinstance(values, TextSlotList):
            text, value = self._constant(values, rng)
            literal = self.inflected
        else:
            list_name = self._name_list(ref, template, draft, rng)
            text = self.lists.pick(list_name, split, rng)
            value = text.lower()
            noun = self.lists.noun(list_name, text)
            familiar = split == "train" and self.lists.is_everyday(list_name, text)
            draft.names.append(value)
            if ref.list_name == "floor" and template.source == "natural":
                text = self._spoken_floor(text)
        draft.arguments[ref.slot_name] = value
        draft.pieces.append(noise.Piece(text, not literal, familiar, noun))
        draft.skeleton.append("{" + ref.slot_name + "}")

    def _number(
        self, name: str, values: RangeSlotList, everyday: float, rng: random.Random
    ) -> tuple[str, int | float]:
        usual = self._plausible.get(name) or [*range(values.start, values.stop + 1, values.step)]
        if everyday and rng.random() < everyday:
            usual = [number for number in _EVERYDAY if number in usual] or usual
        rounded = [number for number in usual if number % 5 == 0]
        number = rng.choice(
            rounded if name not in self._plausible and rng.random() < 0.6 else usual
        )
        text = self._digits(number)
        if rng.random() < self.params.number_words_share:
            text = self._in_words(number, name)
            text = text.replace("-", " ") if rng.random() < 0.6 else text
        value = number * int(values.multiplier or 1)
        return text, value

    def _digits(self, number: float) -> str:
        return f"{number:g}"

    def _in_words(self, number: float, list_name: str) -> str:
        del list_name
        return self._numbers.format_number(number).text

    def _number_noun(self, text: str) -> Noun | None:
        del text
        return None

    def _spoken_floor(self, name: str) -> str:
        # The package's templates say "{floor} [floor]"; ours say the floor as people do, so an
        # ordinal or adjective ("first", "upper") needs its noun. The name stays what the package
        # calls it.
        bare = name.endswith(("level", "stairs")) or name in _FLOOR_NOUNS
        return name if bare else f"{name} floor"

    def _constant(self, values: TextSlotList, rng: random.Random) -> tuple[str, Any]:
        value = rng.choice(values.values)
        draft = Draft()
        template = Template("", "", "", "", None, {}, ())  # type: ignore[arg-type]
        self._say(value.text_in, template, "train", rng, draft)
        return noise.join(draft.pieces), value.value_out

    def _name_list(
        self, ref: grammar.ListReference, template: Template, draft: Draft, rng: random.Random
    ) -> str:
        """The list file a free value comes from: by domain for names, by medium for media."""
        if ref.list_name == "search_query":
            medium = draft.arguments.get("media_class") or _medium_to_come(template)
            return f"media_{medium}" if medium else rng.choice(MEDIA_LISTS)
        if ref.list_name != "name":
            return ref.list_name
        if template.domains == ("binary_sensor",):
            return _sensor_list(template.text)
        domains = [d for d in template.domains if self.lists.has(d)]
        return rng.choice(domains or ["weather"])

    # -- inputs that are no command

    def _out_of_scope(self, split: str, rng: random.Random) -> Iterator[dict[str, Any]]:
        rows = [
            query
            for query in _out_of_scope_queries()
            if split_by_hash(self.params.seed, query, self.params.held_out_share) == split
        ]
        while True:
            for query in rng.sample(rows, len(rows)):
                if split == "train":
                    # As many again from templates: the lists alone are too short to say what of a
                    # home's own words is no command. Dev and test know only what people wrote.
                    yield self._out_of_scope_from_template(rng)
                yield no_call(query)

    def _out_of_scope_from_template(self, rng: random.Random) -> dict[str, Any]:
        while True:
            template = rng.choice(self._out_of_scope_templates)
            draft = self._draft(template, "train", rng)
            if self._put_right(draft, rng):
                break
        noisy = rng.random() < self.params.noise_share
        query = noise.speak(draft.pieces, rng, noisy=noisy, polite=False, chatty=True)
        return {
            **no_call(query),
            "template": self._key(template, draft),
            "names": sorted(draft.names),
            "slices": ["noise" if noisy else "clean", "out_of_scope"],
        }


def no_call(query: str) -> dict[str, Any]:
    """The row of a query that asks for no tool."""
    return {
        "query": query,
        "call": NO_CALL.to_json(),
        "source": "out_of_scope",
        "template": "",
        "names": [],
        "slices": ["out_of_scope"],
    }


def load(params: Prepare) -> Gold:
    """The task's source of rows in the one language of the params; called by `prepare`."""
    (code,) = params.languages
    if code == grammar.LANGUAGE:
        return Gold(params)
    return importlib.import_module("tasks.home.foreign").ForeignGold(params, code)


def stable_hash(seed: int, text: str) -> str:
    """A hash of ``text`` that is the same in every process."""
    return hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()


def split_by_hash(seed: int, text: str, held_out: float) -> str:
    """The split an independent item belongs to: ``held_out`` test, half of that dev, rest train."""
    position = int(stable_hash(seed, text)[:8], 16) / 2**32
    if position < held_out:
        return "test"
    return "dev" if position < 1.5 * held_out else "train"


def _templates(raw: dict[str, Any], source: str) -> Iterator[Template]:
    raw = json.loads(_ALL_STATE.sub("<are> <all>", _TAIL.sub("", json.dumps(raw))))
    yield from templates(raw, source, grammar.parse(raw))


def templates(raw: dict[str, Any], source: str, parsed: grammar.Intents) -> Iterator[Template]:
    """Every sentence template of a grammar and its parsed form."""
    for tool, intent in raw["intents"].items():
        for block, parsed_block in zip(intent["data"], parsed.intents[tool].data, strict=True):
            domain = block.get("requires_context", {}).get("domain", ())
            for text in block["sentences"]:
                yield Template(
                    tool=tool,
                    slots=block["metadata"]["slot_combination"],
                    source=source,
                    text=text,
                    sentence=_parse_one(parsed_block, text),
                    constants=block.get("slots", {}),
                    domains=(domain,) if isinstance(domain, str) else tuple(domain),
                )


def _parse_one(block: Any, text: str) -> grammar.Sentence:
    # hassil orders a block's sentences by its own rule, so they are found by their text.
    return next(sentence for sentence in block.sentences if sentence.text == text)


def _ways(groups: dict[tuple[str, str], list[Template]], split: str) -> int:
    """How many ways there are to call a tool: of slots in dev and test, of wordings in train.

    A tool that is asked for in many wordings takes more rows to learn than one with many slots.
    """
    return (
        sum(map(len, groups.values())) if split == "train" else len({slots for slots, _ in groups})
    )


def _choose(alternative: grammar.Alternative, split: str, rng: random.Random) -> grammar.Expression:
    # The grammar lists the usual wording first ("turn" before "bring"); an optional part is a coin.
    # Train meets the rarer words more often than people use them.
    power = 0.5 if split == "train" else 1
    weights = [1 / (position + 1) ** power for position in range(len(alternative.items))]
    if alternative.is_optional:
        weights[-1] = sum(weights[:-1])
    return rng.choices(alternative.items, weights)[0]


def _medium_to_come(template: Template) -> str | None:
    # "play {search_query} {media_class}" says the medium after the title; music is what fits all.
    return "track" if "{media_class}" in template.text else None


def _sensor_list(text: str) -> str:
    return "binary_sensor_open" if "bs_open_states" in text else "binary_sensor_occupancy"


def _out_of_scope_queries() -> list[str]:
    real = [
        json.loads(line)["query"]
        for line in (grammar.FOLDER / "out_of_scope.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    own = (grammar.FOLDER / "out_of_scope_own.txt").read_text(encoding="utf-8").splitlines()
    return sorted({*real, *own})
