"""The local backend: a shared prefix changes nothing but the work, rows stop when their call is whole."""

import asyncio
import json

import pytest
import torch
from teaching import SAY, ask, params

from supertiny.errors import UserError
from supertiny.teacher.asking import Asker
from supertiny.teacher.backends.local import (
    _LIKELIEST,
    LocalBackend,
    LocalModel,
    _pick,
    answer_start,
    chat_text,
)
from supertiny.teacher.limits import Limits
from supertiny.teacher.messages import Ask, Function
from supertiny.teacher.store import RowStore

TEXTS = ["on", "dim the hall lamp to thirty per cent", "what", "lamp lamp lamp"]


@pytest.fixture(scope="module")
def model(tiny_model):
    return LocalModel(tiny_model, "fp32", threads=1)


def contents(responses):
    return [response["choices"][0]["message"]["content"] for response in responses]


def plain_logits(model, question, count):
    """Logits of each greedy step by the plainest loop: one row, no cache, no prefix."""
    text = chat_text(model.tokenizer, question) + answer_start(question)
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    found = []
    for _ in range(count):
        with torch.inference_mode():
            mask = torch.zeros(len(ids), len(ids))
            hidden = torch.ones_like(mask).triu(1).bool()
            mask = mask.masked_fill(hidden, torch.finfo(mask.dtype).min)
            out = model.model(input_ids=torch.tensor([ids]), attention_mask=mask[None, None])
        found.append(out.logits[0, -1].clone())
        ids.append(int(found[-1].argmax()))
    return found


def test_a_batch_with_a_shared_prefix_is_what_each_row_is_alone(model, monkeypatch):
    """Compared in logits: a random model's words would hide a shifted position."""
    seen = {}

    def noting(logits, request, draw):
        seen.setdefault(request["messages"][1]["content"], []).append(logits.clone())
        return int(logits.argmax())

    monkeypatch.setattr("supertiny.teacher.backends.local._pick", noting)
    asks = [ask(text, max_tokens=5) for text in TEXTS]
    found = model.answers(asks)
    assert model._prefix_ids  # or this test would show nothing
    for question in asks:
        expected = plain_logits(model, question, 5)
        torch.testing.assert_close(
            torch.stack(seen[question.messages[1]["content"]]),
            torch.stack(expected),
            atol=1e-5,
            rtol=1e-4,
        )
    assert all(r["choices"][0]["finish_reason"] == "length" for r in found)
    ids = model.tokenizer(
        chat_text(model.tokenizer, asks[1]) + '{"text": "', add_special_tokens=False
    )["input_ids"]
    assert found[1]["usage"] == {"prompt_tokens": len(ids), "completion_tokens": 5}


def test_the_shared_prefix_is_computed_once_for_many_batches(tiny_model):
    fresh = LocalModel(tiny_model, "fp32", threads=1)
    for text in TEXTS:
        fresh.answers([ask(f"{text} {n}", max_tokens=2) for n in range(3)])
    first = fresh.prefix_tokens_computed
    for text in TEXTS:
        fresh.answers([ask(f"{text} {n} again", max_tokens=2) for n in range(3)])
    assert fresh.prefix_tokens_computed == first
    other = Ask({**ask("on").request, "messages": [
        {"role": "system", "content": "Another step altogether, with a prompt of its own."},
        {"role": "user", "content": "on"}]}, 0)  # fmt: skip
    fresh.answers([other, other])
    assert fresh.prefix_tokens_computed > first


def test_a_row_ends_with_its_json_object(model, monkeypatch):
    """The model is made to say a fixed text; nothing after the balancing brace is generated."""
    texts = ['a {b} \\" }"} and so on', 'x"}}}', "never ends"]
    wanted = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    steps = []

    def forced(ids, visible, cache):
        alive = [row for row in range(3) if len(steps) < lengths[row]]
        logits = torch.zeros(len(ids), model.model.config.vocab_size)
        for at, row in enumerate(alive):
            logits[at, wanted[row][min(len(steps), len(wanted[row]) - 1)]] = 9.0
        steps.append(len(ids))
        return logits

    closing = [
        next(n for n in range(1, 99) if "}" in model.tokenizer.decode(w[:n])) for w in wanted[1:2]
    ]
    whole = next(
        n for n in range(1, 99) if model.tokenizer.decode(wanted[0][:n]).endswith('}"}')
        or '}"}' in model.tokenizer.decode(wanted[0][:n])
    )  # fmt: skip
    lengths = [whole, closing[0], 30]
    monkeypatch.setattr(model, "_forward", forced)
    monkeypatch.setattr(model, "_share_prefix", lambda ids: None)
    model._prefix_ids = []
    monkeypatch.setattr("supertiny.teacher.backends.local.DynamicCache", FakeCache)
    found = model.answers([ask(text, max_tokens=30) for text in "abc"])
    assert contents(found)[:2] == ['{"text": "a {b} \\" }"}', '{"text": "x"}']
    assert json.loads(contents(found)[0]) == {"text": 'a {b} " }'}
    finishes = [response["choices"][0]["finish_reason"] for response in found]
    assert finishes == ["stop", "stop", "length"]
    made = [response["usage"]["completion_tokens"] for response in found]
    assert made == lengths and sum(steps) == sum(lengths)


class FakeCache:
    def batch_select_indices(self, keep):
        pass


def test_samples_are_drawn_by_their_key_and_not_by_their_neighbours(model):
    def warm(text, sample):
        return Ask({**ask(text, max_tokens=5).request, "temperature": 1.0}, sample)

    alone = contents(model.answers([warm("on", 0)]))
    among = contents(model.answers([warm("on", 1), warm("on", 0), warm("on", 2)]))
    assert among[1] == alone[0] and len(set(among)) == 3


def test_top_p_keeps_the_likeliest_and_temperature_zero_takes_it():
    logits = torch.log(torch.tensor([0.1, 0.6, 0.3]))
    draw = torch.Generator().manual_seed(0)
    picked = {_pick(logits, {"temperature": 1.0, "top_p": 0.65}, draw) for _ in range(200)}
    assert picked == {1, 2}
    assert {_pick(logits, {"temperature": 1.0, "top_p": 0.1}, draw) for _ in range(50)} == {1}
    assert _pick(logits, {"temperature": 0.0, "top_p": 1.0}, draw) == 1


def test_top_p_reaches_beyond_the_tokens_that_are_looked_at_first():
    draw = torch.Generator().manual_seed(0)
    even = torch.zeros(4 * _LIKELIEST)
    picked = {_pick(even, {"temperature": 1.0, "top_p": 0.5}, draw) for _ in range(8 * _LIKELIEST)}
    assert _LIKELIEST < len(picked) <= 2 * _LIKELIEST + 1


def test_waiting_questions_make_one_batch(tiny_model, tmp_path, monkeypatch):
    sizes = []
    real = LocalModel.answers

    def counted(self, asks):
        sizes.append(len(asks))
        return real(self, asks)

    monkeypatch.setattr(LocalModel, "answers", counted)
    settings = params(backend="local", concurrency=1)  # which is for servers
    backend = LocalBackend(str(tiny_model), "fp32", batch_size=4, threads=1)
    store = RowStore(tmp_path / "rows.jsonl")
    asker = Asker(backend, store, Limits(settings))
    answers = asker.ask([ask(f"say {n}", max_tokens=2) for n in range(8)], "test")
    asker.close()
    assert sizes == [4, 4]
    assert all(answer.failure == "truncated" for answer in answers.values())


def test_a_batch_has_one_system_prompt_and_prompts_of_like_length(tiny_model, monkeypatch):
    batches = []

    def noted(asks):
        batches.append([(a.messages[0]["content"], len(a.messages[1]["content"])) for a in asks])
        return [None] * len(asks)

    backend = LocalBackend(str(tiny_model), "fp32", batch_size=4, threads=1)
    monkeypatch.setattr(backend, "_generate", noted)

    async def all_at_once():
        asks = [_of_system(f"system {n % 2}", "word " * (1 + n * 5 % 7)) for n in range(12)]
        await asyncio.gather(*(backend.complete(each) for each in asks))

    asyncio.run(all_at_once())
    assert [len(batch) for batch in batches] == [4, 2, 4, 2]
    assert [len({system for system, _ in batch}) for batch in batches] == [1] * 4
    for first, second in (batches[:2], batches[2:]):
        lengths = [length for _, length in first + second]
        assert lengths == sorted(lengths)


def _of_system(system, text):
    request = ask(text).request
    messages = [{"role": "system", "content": system}, *request["messages"][1:]]
    return Ask({**request, "messages": messages}, 0)


def test_an_answer_begins_with_what_it_can_only_begin_with():
    assert answer_start(ask("a")) == '{"text": "'
    number = {"properties": {"n": {"type": "integer"}}, "required": ["n"]}
    assert answer_start(ask("a", function=Function("f", "F.", number))) == '{"n":'
    assert answer_start(ask("a", function=Function("f", "F.", {"properties": {}}))) == "{"


def test_an_error_of_the_model_reaches_every_waiting_question(tiny_model, monkeypatch):
    backend = LocalBackend(str(tiny_model), "fp32", batch_size=4, threads=1)
    monkeypatch.setattr(backend, "_generate", lambda asks: 1 / 0)

    async def both():
        return await asyncio.gather(
            *(backend.complete(ask(t)) for t in "ab"), return_exceptions=True
        )

    assert [type(error) for error in asyncio.run(both())] == [ZeroDivisionError] * 2


def test_bf16_answers_too(tiny_model):
    found = LocalModel(tiny_model, "bf16", threads=1).answers([ask(t, max_tokens=3) for t in TEXTS])
    assert len(found) == 4 and found[0]["usage"]["completion_tokens"] <= 3


def test_no_model_is_a_users_error(tmp_path):
    backend = LocalBackend(str(tmp_path), "fp32", 1, 1)
    backend.check([])
    with pytest.raises(UserError, match="teacher.path: found"):
        backend.check([ask("a", function=SAY)])
