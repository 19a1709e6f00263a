"""An argument's beginning is one token, and nothing else about a model or its text changes."""

import torch
from conftest import LESSONS
from transformers import AutoModelForCausalLM, AutoTokenizer

from supertiny.calls import call_from_json
from supertiny.keytokens import add_key_tokens


def loaded(folder):
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def texts(lamps):
    return [lamps.render_call(call_from_json(lesson["call"])) for lesson in LESSONS]


def test_answers_are_shorter_and_read_back_the_same(tiny_model, lamps, tmp_path):
    model, tokenizer = loaded(tiny_model)
    before = [len(tokenizer.encode(text, add_special_tokens=False)) for text in texts(lamps)]
    assert add_key_tokens(model, tokenizer, lamps) > 0
    tokenizer.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    encoded = [tokenizer.encode(text, add_special_tokens=False) for text in texts(lamps)]
    for text, ids, old in zip(texts(lamps), encoded, before, strict=True):
        keys = text.count("\n")
        assert len(ids) <= old - keys
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_a_second_time_adds_nothing(tiny_model, lamps):
    model, tokenizer = loaded(tiny_model)
    add_key_tokens(model, tokenizer, lamps)
    size = len(tokenizer)
    assert add_key_tokens(model, tokenizer, lamps) == 0
    assert len(tokenizer) == size


def test_what_the_model_says_of_other_tokens_stays(tiny_model, lamps):
    model, tokenizer = loaded(tiny_model)
    ids = torch.tensor([tokenizer.encode(" light on\n", add_special_tokens=False)])
    with torch.no_grad():
        before = model(ids).logits
        add_key_tokens(model, tokenizer, lamps)
        after = model(ids).logits
    torch.testing.assert_close(after[..., : before.shape[-1]], before)


def test_a_new_token_begins_as_the_mean_of_its_parts(tiny_model, lamps):
    model, tokenizer = loaded(tiny_model)
    tool = next(tool for tool in lamps.tools.values() if tool.properties)
    text = f"\n {tool.word(next(iter(tool.properties)))}"
    parts = tokenizer.encode(text, add_special_tokens=False)
    mean = model.get_input_embeddings().weight[parts].mean(0).detach().clone()
    add_key_tokens(model, tokenizer, lamps)
    place = tokenizer.convert_tokens_to_ids(text)
    for table in (model.get_input_embeddings(), model.get_output_embeddings()):
        torch.testing.assert_close(table.weight[place], mean)
