"""What is captured is what the teacher says, at each answer token, and along its own answers too."""

import dataclasses
import json
import shutil

import pytest
import torch
from distilling import CAPTURE, DISPUTED, ROWS
from transformers import AutoModelForCausalLM, AutoTokenizer

from supertiny.distill.capture import capture, choose
from supertiny.distill.logits import capture_of, read
from supertiny.errors import UserError
from supertiny.sft import encode_row


def captured(folder, task, path, **changes):
    """Metrics and stored rows by id, of a capture of `ROWS` and one row with another gold answer."""
    params = dataclasses.replace(CAPTURE, **changes)
    metrics = capture(folder, [*ROWS[:5], DISPUTED], task, params, path)
    expected = capture_of(folder, AutoTokenizer.from_pretrained(folder), task, params.k)
    return metrics, {row.id: row for row in read(path, expected)}


@pytest.fixture(scope="module")
def padded_model(tiny_model, tmp_path_factory):
    """The tiny model with a head of 704 tokens, of which the tokenizer has 640."""
    out = shutil.copytree(tiny_model, tmp_path_factory.mktemp("padded") / "model")
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.resize_token_embeddings(704, mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[640:] = 3.0
    model.save_pretrained(out)
    return out


@pytest.mark.parametrize("model", ["tiny_model", "padded_model"])
def test_values_are_those_of_each_row_alone_over_the_tokenizers_own_tokens(
    model, lamps, tmp_path, request
):
    folder = request.getfixturevalue(model)
    metrics, rows = captured(folder, lamps, tmp_path / "store")
    teacher = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert list(rows) == [row["id"] for row in ROWS]
    total = 0.0
    for row in [*ROWS[:5], DISPUTED]:
        encoded = encode_row(row, lamps, tokenizer)
        found = rows[row["id"]]
        with torch.no_grad():
            logits = teacher(torch.tensor([encoded["input_ids"]])).logits[0, :, :640]
        answer = [at for at, label in enumerate(encoded["labels"]) if label >= 0]
        assert found.tokens.tolist() == [encoded["input_ids"][at] for at in answer]
        for at, ids, log_probs in zip(answer, found.ids, found.log_probs, strict=True):
            dense = logits[at - 1].softmax(-1)
            wanted = dense.topk(16).values
            total += wanted.sum().item()
            # Ids by what they stand for: two tokens may be equally probable.
            torch.testing.assert_close(dense[torch.from_numpy(ids)], wanted, rtol=1e-4, atol=0)
            torch.testing.assert_close(torch.from_numpy(log_probs).exp(), wanted, rtol=4e-3, atol=0)
    tokens = sum(len(row.tokens) for row in rows.values())
    assert metrics["tokens"] == tokens and metrics["rows"] == metrics["inputs"] == 6
    assert metrics["mean_top_k_mass"] == pytest.approx(total / tokens, rel=4e-3)
    assert 0.02 < metrics["mean_top_k_mass"] < 0.9, "a random model spreads its mass"


def test_a_token_takes_less_than_400_bytes(tiny_model, lamps, tmp_path):
    metrics, _ = captured(tiny_model, lamps, tmp_path / "store", k=64)
    size = (tmp_path / "store").stat().st_size
    assert metrics["bytes_per_token"] == pytest.approx(size / metrics["tokens"], abs=0.05)
    assert 258 <= metrics["bytes_per_token"] < 400


def test_the_teachers_own_answer_is_captured_where_it_is_not_gold(taught_model, lamps, tmp_path):
    metrics, rows = captured(taught_model, lamps, tmp_path / "store", own_share=1.0)
    assert list(rows) == [row["id"] for row in ROWS] + ["row5#own"]
    tokenizer = AutoTokenizer.from_pretrained(taught_model)
    own, gold = rows["row5#own"], rows["row5"]
    assert tokenizer.decode(own.tokens) == lamps_answer("light on", tokenizer)
    assert tokenizer.decode(gold.tokens) == lamps_answer("dim\n brightness 7", tokenizer)
    assert own.ids[:, 0].tolist() == own.tokens.tolist(), "its own answer is its most probable"
    assert gold.ids[:, 0].tolist() != gold.tokens.tolist()
    counts = {key: metrics[key] for key in ("inputs", "rows", "own_inputs", "own_rows")}
    assert counts == {"inputs": 6, "rows": 7, "own_inputs": 6, "own_rows": 1}
    assert metrics["own_equal_gold_share"] == round(5 / 6, 4)


def lamps_answer(text, tokenizer):
    return f" {text}{tokenizer.eos_token}"


def test_an_answer_cut_off_at_the_limit_gets_no_end_token_and_is_left_out(
    taught_model, lamps, tmp_path
):
    metrics, rows = captured(
        taught_model, lamps, tmp_path / "store", own_share=1.0, max_new_tokens=2
    )
    assert metrics["own_cut_off"] == 6 and list(rows) == [row["id"] for row in ROWS]


def test_the_same_run_gives_the_same_bytes(tiny_model, lamps, tmp_path):
    for name in ("a", "b"):
        captured(tiny_model, lamps, tmp_path / name, own_share=0.5)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_rows_are_chosen_by_seed_and_a_larger_choice_holds_the_smaller():
    rows = [{"id": str(at)} for at in range(50)]

    def chosen(**changes):
        found = choose(rows, dataclasses.replace(CAPTURE, **changes))
        return [[int(row["id"]) for row in part] for part in found]

    few, asked = chosen(rows=10, own_share=0.3)
    assert (len(few), len(asked)) == (10, 3) and set(asked) < set(few)
    assert few == sorted(few) and asked == sorted(asked)
    assert [few, asked] == chosen(rows=10, own_share=0.3)
    assert few != chosen(rows=10, seed=2)[0] and few != list(range(10))
    assert set(few) < set(chosen(rows=20)[0])
    assert set(asked) < set(chosen(rows=10, own_share=0.6)[1])
    assert chosen(rows=0) == [list(range(50)), []] == chosen(rows=99)


def test_no_teacher_is_a_users_error(lamps, tmp_path):
    with pytest.raises(UserError, match="logits.teacher: .*nobody: no model there"):
        capture(tmp_path / "nobody", ROWS, lamps, CAPTURE, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_the_file_says_what_it_was_captured_from(tiny_model, lamps, tmp_path):
    captured(tiny_model, lamps, tmp_path / "store")
    head = (tmp_path / "store").read_bytes()
    size = int.from_bytes(head[:8], "little")
    header = json.loads(json.loads(head[8 : 8 + size])["__metadata__"]["capture"])
    assert header["k"] == 16 and header["vocabulary"] == 640
    assert header["rows"] == [row["id"] for row in ROWS]
