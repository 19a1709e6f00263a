"""Commands in the other languages of the package: `gold` with their grammar, names and manners.

Limits: the package's grammars are made for listening, and what is drawn from them is put right by
rules (`tasks.home.languages`), not by somebody who speaks the language.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

from hassil.intents import TextSlotList

from supertiny.calls import NO_CALL, ToolCall
from supertiny.errors import CallError
from supertiny.params.prepare import Prepare
from supertiny.task import load_task_folder
from tasks.home import gold, grammar, languages, noise
from tasks.home.languages.agreement import Noun
from tasks.home.names import ForeignNames

_OWN_PER_REAL = 4  # of queries that are no command; the corpus is small
_TRIES = 12  # drafts by which a template is found to give legal calls, or none


class ForeignGold(gold.Gold):
    """Rows of one language other than English, as `gold.Gold`."""

    inflected = True

    def __init__(self, params: Prepare, code: str) -> None:
        self.params = params
        self.language = languages.load(code)
        self.manner = self.language.manner
        self._unsaid = self.language.unsaid
        celsius = [number for number in gold.PLAUSIBLE["temperature"] if number < 40]
        self._plausible = {**gold.PLAUSIBLE, "temperature": celsius}
        self.lists = self.names = ForeignNames(params.seed, params.held_out_share, self.language)
        raw = languages.overridden(grammar.package_grammar(code), self.language)
        own = grammar.own_grammar("sentences.yaml", languages.FOLDER / code)
        self._intents = grammar.parse(raw, raw)
        self._drop_illegal_values()
        self.refused: dict[str, str] = {}  # templates left out, and why
        self._templates = [
            *gold.templates(raw, "template", self._intents),
            *gold.templates(own, "natural", grammar.parse(own, raw)),
        ]
        self._templates = [template for template in self._templates if self._can_be_said(template)]
        self._split_of_template, self._held_out_skeletons = self._split_templates()
        self.names.add_everyday(self.language, params.everyday_share)

    def _drop_illegal_values(self) -> None:
        """Leave out what a list puts where the schema has another word or none."""
        for values in self._intents.slot_lists.values():
            if isinstance(values, TextSlotList):
                values.values = [v for v in values.values if not isinstance(v.value_out, list)]

    def _can_be_said(self, template: gold.Template) -> bool:
        """Whether the template gives sentences with legal calls; why not is kept."""
        rng = random.Random(f"{template.tool}:{template.text}")
        reason = "no sentence that could be put right"
        for _ in range(_TRIES):
            draft = self._draft(template, "train", rng)
            if not self._put_right(draft, rng):
                continue
            try:
                _TASK.validate(ToolCall(template.tool, {**draft.arguments, **template.constants}))
            except CallError as error:
                reason = str(error)
                break
            return True
        self.refused[f"{template.tool}: {template.text}"] = reason
        return False

    def _put_right(self, draft: gold.Draft, rng: random.Random) -> bool:
        pieces = self.language.agree(draft.pieces, rng)
        if pieces is None:
            return False
        draft.pieces = pieces
        return not self.language.nonsense.search(noise.join(pieces))

    def _with_fractions(self, query: str, tool: str, arguments: dict[str, Any]) -> str:
        del tool, arguments
        return query  # the grammars have their own: "anderthalb Stunden", "hora y media"

    def _digits(self, number: float) -> str:
        return self.language.digits(number)

    def _in_words(self, number: float, list_name: str) -> str:
        return self.language.words(number, list_name)

    def _number_noun(self, text: str) -> Noun | None:
        return Noun("#", text)

    def _spoken_floor(self, name: str) -> str:
        return name

    def _out_of_scope(self, split: str, rng: random.Random) -> Iterator[dict[str, Any]]:
        corpus, own, self._no_call_names = self.language.out_of_scope()
        self._no_call_lists = own.slot_lists
        params = self.params

        def of_split(texts: list[str]) -> list[str]:
            share = params.held_out_share
            return [t for t in texts if gold.split_by_hash(params.seed, t, share) == split]

        real = of_split(corpus)
        templates = {
            str(block.sentences[0].text): block.sentences[0].expression
            for block in own.intents[NO_CALL.name].data
        }
        sentences = of_split(list(templates))
        # A template of few texts is soon used up.
        weights = [self._texts_of(templates[text], split) ** 0.5 for text in sentences]
        rng.shuffle(real)
        while True:
            if real:
                yield gold.no_call(real.pop())
            for text in rng.choices(sentences, weights, k=_OWN_PER_REAL):
                yield self._no_call_of(text, templates[text], split, rng)

    def _texts_of(self, said: grammar.Expression, split: str) -> int:
        """How many texts an expression stands for in a split."""
        if isinstance(said, grammar.ListReference):
            name = self._no_call_names.get(said.list_name)
            if name:
                return len(self.names.of(name, split))
            values = self._no_call_lists[said.list_name]
            assert isinstance(values, TextSlotList)
            return len(values.values)
        if isinstance(said, grammar.Alternative):
            return sum(self._texts_of(item, split) for item in said.items)
        if isinstance(said, grammar.Group):
            return math.prod(self._texts_of(item, split) for item in said.items)
        return 1

    def _no_call_of(
        self, template: str, expression: grammar.Expression, split: str, rng: random.Random
    ) -> dict[str, Any]:
        pieces: list[noise.Piece] = []
        self._say_no_call(expression, split, rng, pieces)
        train = split == "train"
        noisy = rng.random() < (self.params.noise_share if train else self.params.noise_test_share)
        query = noise.speak(
            pieces, rng, noisy=noisy, polite=False, chatty=train, manner=self.manner
        )
        return {
            **gold.no_call(query),
            "template": f"{NO_CALL.name}: {template}",
            "names": sorted(piece.text.lower() for piece in pieces if piece.value),
            "slices": ["noise" if noisy else "clean", "out_of_scope"],
        }

    def _say_no_call(
        self, said: grammar.Expression, split: str, rng: random.Random, pieces: list[noise.Piece]
    ) -> None:
        if isinstance(said, grammar.ListReference) and said.list_name in self._no_call_names:
            name = self.lists.pick(self._no_call_names[said.list_name], split, rng)
            pieces.append(noise.Piece(name, value=True))
        elif isinstance(said, grammar.ListReference):
            values = self._no_call_lists[said.list_name]
            assert isinstance(values, TextSlotList)
            self._say_no_call(rng.choice(values.values).text_in, split, rng, pieces)
        elif isinstance(said, grammar.Alternative):
            self._say_no_call(rng.choice(said.items), split, rng, pieces)
        elif isinstance(said, grammar.Group):
            for item in said.items:
                self._say_no_call(item, split, rng, pieces)
        else:
            pieces.append(noise.Piece(said.original_text))  # type: ignore[attr-defined]


_TASK = load_task_folder(grammar.FOLDER)
