"""The PyTorch student: batching and the shared prefix must not change a single token."""

import shutil

import pytest
import torch
from conftest import LESSONS
from transformers import AutoModelForCausalLM, DynamicCache

from supertiny import metrics
from supertiny.student import SEPARATOR, TorchStudent, choose_examples, few_shot_text
from supertiny.task import Task

QUERIES = [
    "on",
    "turn on the light in the hall",
    "dim it to 30 percent please",
    "a",
    "what is the weather like in the garden today, and will it rain tomorrow",
    "light",
    "dim the hall",
    "garage light on",
]


@pytest.fixture(scope="module")
def examples():
    return [{"id": str(i), **lesson} for i, lesson in enumerate(LESSONS)]


@pytest.fixture(scope="module")
def sharp_model(tiny_model, tmp_path_factory):
    """The random model with attention that picks single tokens.

    Fresh random weights attend to everything about equally, so a wrong position or a wrong weight
    of the prefix would not change an answer.
    """
    out = tmp_path_factory.mktemp("models") / "sharp"
    shutil.copytree(tiny_model, out)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    with torch.no_grad():
        for layer in model.model.layers:
            for part in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                part.weight *= 12
            for part in (layer.self_attn.v_proj, layer.self_attn.o_proj):
                part.weight *= 6
    model.save_pretrained(out)
    return out


def reference(model, student, prompt_ids, max_new_tokens):
    """Plain greedy decoding of one row, no batch, no shared prefix, nothing of ours."""
    out = model.generate(
        torch.tensor([prompt_ids]), max_new_tokens=max_new_tokens, do_sample=False
    )[0, len(prompt_ids) :].tolist()
    end = student.tokenizer.eos_token_id
    return student.tokenizer.decode(out[: out.index(end)] if end in out else out)


def test_batched_answers_equal_plain_greedy_decoding(sharp_model, lamps):
    student = TorchStudent(sharp_model, lamps)
    model = AutoModelForCausalLM.from_pretrained(sharp_model, dtype=torch.float32)
    found = student.answers(QUERIES, max_new_tokens=9, batch_size=8)
    for query, answer in zip(QUERIES, found, strict=True):
        ids = student._encode(student.tokenizer.bos_token + lamps.render_prompt(query))
        assert answer == reference(model, student, ids, 9)


def test_answers_do_not_depend_on_the_batch(sharp_model, lamps):
    student = TorchStudent(sharp_model, lamps)
    one = student.answers(QUERIES, max_new_tokens=9, batch_size=1)
    assert student.answers(QUERIES, max_new_tokens=9, batch_size=8) == one
    assert student.answers(QUERIES[::-1], max_new_tokens=9, batch_size=3) == one[::-1]
    assert len(set(one)) > 1


def test_a_taught_model_answers_in_order_and_ends_each_row_by_itself(taught_model, lamps):
    # The lessons' answers have from one to three lines: rows leave the batch at different steps.
    student = TorchStudent(taught_model, lamps)
    texts = student.answers([row["query"] for row in LESSONS], max_new_tokens=40, batch_size=6)
    calls = [lamps.parse_call(text, row["query"]) for text, row in zip(texts, LESSONS, strict=True)]
    assert [call.arguments for call in calls] != [{}] * len(calls)
    assert [call.name for call in calls] == [row["call"]["name"] for row in LESSONS]


def test_a_finished_row_leaves_the_batch(taught_model, lamps, monkeypatch):
    student = TorchStudent(taught_model, lamps)
    sizes = []
    forward = student._forward
    monkeypatch.setattr(
        student, "_forward", lambda ids, *rest: sizes.append(len(ids)) or forward(ids, *rest)
    )
    student.answers([row["query"] for row in LESSONS], max_new_tokens=40, batch_size=6)
    assert sizes[0] == 6
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 6
    assert len(sizes) < 40


@pytest.mark.parametrize("shown", [0, 3])
def test_bf16_changes_logits_by_no_more_than_its_rounding(taught_model, lamps, examples, shown):
    exact, rounded = (
        TorchStudent(taught_model, lamps, examples=examples[:shown], precision=precision)
        for precision in ("fp32", "bf16")
    )
    assert {weight.dtype for weight in rounded.model.parameters()} == {torch.bfloat16}
    found = []
    for student in (exact, rounded):
        student._compute_prefix()
        ids = torch.tensor([student._encode(student.prompt(QUERIES[1]))])
        visible = torch.ones(ids.shape, dtype=torch.bool)
        with torch.inference_mode():
            found.append(student.next_logits(ids, visible, DynamicCache(), student.prefix_length))
    assert found[1].dtype == torch.float32
    difference = (found[0] - found[1]).abs().max() / found[0].abs().max()
    assert 0 < difference < 0.05


def test_a_taught_model_answers_the_same_in_bf16(taught_model, lamps):
    queries = [row["query"] for row in LESSONS]
    exact, rounded = (
        TorchStudent(taught_model, lamps, precision=precision).answers(queries, 40, 6)
        for precision in ("fp32", "bf16")
    )
    assert rounded == exact


def test_the_shared_prefix_gives_the_same_answers_as_the_full_prompt(
    sharp_model, lamps, examples, monkeypatch
):
    monkeypatch.setattr(Task, "may_become_call", lambda *_: True)
    student = TorchStudent(sharp_model, lamps, examples=examples)
    model = AutoModelForCausalLM.from_pretrained(sharp_model, dtype=torch.float32)
    found = student.answers(QUERIES, max_new_tokens=9, batch_size=8)
    before = student._encode(student.tokenizer.bos_token + student.prefix_text)
    for query, answer in zip(QUERIES, found, strict=True):
        ids = before + student._encode(student.prompt(query))
        assert answer == reference(model, student, ids, 9).split(SEPARATOR)[0]
    alone = TorchStudent(sharp_model, lamps).answers(QUERIES, max_new_tokens=9, batch_size=8)
    assert found != alone


def scripted(student, script, monkeypatch):
    """Let the student answer each row with the given text, token by token, whatever it reads."""
    asked = []
    pending = []
    end = student.tokenizer.eos_token_id

    def forward(ids, visible, cache, offset):
        if offset == 0:  # the shared prefix
            return [0] * len(ids)
        if ids.shape[1] > 1:
            pending[:] = [student._encode(text) + [end] for text in script[: len(ids)]]
        asked.append(len(ids))
        return [row.pop(0) for row in pending]

    select = DynamicCache.batch_select_indices

    def keep(cache, indices):
        pending[:] = [pending[at] for at in indices.tolist()]
        return select(cache, indices)

    monkeypatch.setattr(student, "_forward", forward)
    monkeypatch.setattr(DynamicCache, "batch_select_indices", keep)
    return asked


def test_an_answer_that_cannot_be_a_call_stops_and_scores_the_same(
    tiny_model, lamps, examples, monkeypatch
):
    script = [
        " fly\n away to the garage\n and back",
        " dim\n brightness 30\n brightness 30\n brightness 30",
        " light on\n area hall\n\n on\n light on",
        " no_call\n no_call\n no_call\n no_call",
        " light on\n area garage and so on and so on",
    ]
    rows = [{**example, "slices": []} for example in examples[: len(script)]]
    queries = ["on"] * len(script)
    scores, texts, steps = [], [], []
    for rule in (Task.may_become_call, lambda *_: True):
        with monkeypatch.context() as patch:
            patch.setattr(Task, "may_become_call", rule)
            student = TorchStudent(tiny_model, lamps, examples=examples)
            asked = scripted(student, script, patch)
            texts.append(student.answers(queries, max_new_tokens=99, batch_size=len(script)))
            steps.append(sum(asked))
        scores.append(metrics.score(lamps, rows, texts[-1])[0])
    assert texts[0][:2] == [" fly\n", " dim\n brightness 30\n brightness 30\n"]
    assert texts[0][2] == texts[1][2] == " light on\n area hall"
    assert texts[0][4] == texts[1][4]
    assert all(long.startswith(short) for short, long in zip(*texts, strict=True))
    assert scores[0] == scores[1]
    read = [*texts[0][:2], texts[0][2] + SEPARATOR, texts[0][3], texts[0][4] + "<|im_end|>"]
    assert steps[0] == sum(len(student._encode(text)) for text in read)
    assert steps[0] < 0.8 * steps[1]


def test_the_prefix_is_computed_once(tiny_model, lamps, examples, monkeypatch):
    student = TorchStudent(tiny_model, lamps, examples=examples)
    widths = []
    forward = student._forward
    monkeypatch.setattr(
        student, "_forward", lambda ids, *rest: widths.append(ids.shape[1]) or forward(ids, *rest)
    )
    student.answers(QUERIES, max_new_tokens=2, batch_size=2)
    student.answers(QUERIES, max_new_tokens=2, batch_size=2)
    assert sum(width > 100 for width in widths) == 1


def test_few_shot_text_holds_tools_and_examples(lamps, examples):
    text = few_shot_text(lamps, examples)
    assert lamps.signatures() in text
    assert text.endswith(f" on now\n light on{SEPARATOR}")
    assert text.count(SEPARATOR) == 1 + len(examples)


def test_no_call_is_always_among_the_examples(examples):
    chosen = choose_examples(examples, 2)
    assert [row["call"]["name"] for row in chosen] == ["LightOn", "no_call"]


def test_examples_are_one_per_tool_before_a_second_of_any(examples):
    chosen = choose_examples(examples[::-1], 4)
    assert [row["id"] for row in chosen[1:]] == ["2", "0", "4"]
    assert chosen[0]["id"] in {"1", "3", "5"}
    assert len(choose_examples(examples, 99)) == len(examples)
