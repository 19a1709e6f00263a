"""Commands in the other languages of the package: `gold` with their grammar, names and manners.

Limits: the package's grammars are made for listening, and what is drawn from them is put right by
rules (`tasks.home.languages`), not by somebody who speaks the language.
"""

from __future__ import annotations

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
        corpus, own = self.language.out_of_scope()
        params = self.params

        def of_split(texts: list[str]) -> list[str]:
            share = params.held_out_share
            return [t for t in texts if gold.split_by_hash(params.seed, t, share) == split]

        real = of_split(corpus)
        blocks = {str(block.sentences[0].text): block for block in own.intents[NO_CALL.name].data}
        sentences = of_split(list(blocks))
        while True:
            for query in rng.sample(real, len(real)):
                yield gold.no_call(query)
                for _ in range(4):
                    yield self._drawn_no_call(blocks[rng.choice(sentences)], own, split, rng)

    def _drawn_no_call(
        self, block: Any, own: grammar.Intents, split: str, rng: random.Random
    ) -> dict[str, Any]:
        text = _spoken(block.sentences[0].expression, own, rng)
        train = split == "train"
        noisy = rng.random() < (self.params.noise_share if train else self.params.noise_test_share)
        query = noise.speak(
            [noise.Piece(" ".join(text.split()))], rng,
            noisy=noisy, polite=False, chatty=train, manner=self.manner,
        )  # fmt: skip
        return {
            **gold.no_call(query),
            "template": f"{NO_CALL.name}: {block.sentences[0].text}",
            "slices": ["noise" if noisy else "clean", "out_of_scope"],
        }


_TASK = load_task_folder(grammar.FOLDER)


def _spoken(expression: grammar.Expression, own: grammar.Intents, rng: random.Random) -> str:
    """One text of an expression whose lists hold plain words."""
    if isinstance(expression, grammar.ListReference):
        values = own.slot_lists[expression.list_name]
        assert isinstance(values, TextSlotList)
        return _spoken(rng.choice(values.values).text_in, own, rng)
    if isinstance(expression, grammar.Alternative):
        return _spoken(rng.choice(expression.items), own, rng)
    if isinstance(expression, grammar.Group):
        return "".join(_spoken(item, own, rng) for item in expression.items)
    return expression.original_text  # type: ignore[attr-defined]
