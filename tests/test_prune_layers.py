"""What is cut is what was measured to matter least, and what is left works as it did."""

import copy

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from supertiny.errors import UserError
from supertiny.prune.layers import (
    batches,
    block_influence,
    cut_layers,
    cut_neurons,
    keep_layers,
    keep_neurons,
    neuron_importance,
)
from supertiny.prune.size import count_parameters

ROWS = [[1, 5, 9, 30], [1, 7], [1, 2, 3, 4, 5, 6, 7], [40, 41, 42]]
SIZE = {
    "vocab_size": 48, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 5,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "pad_token_id": 2, "initializer_range": 0.3,
}  # fmt: skip
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": True, "head_dim": 16}),
    "llama with biases": (
        LlamaConfig,
        LlamaForCausalLM,
        {"tie_word_embeddings": False, "mlp_bias": True, "attention_bias": True},
    ),
    "qwen2": (
        Qwen2Config,
        Qwen2ForCausalLM,
        {"tie_word_embeddings": True, "use_sliding_window": True, "max_window_layers": 3},
    ),
}
families = pytest.mark.parametrize("family", FAMILIES)


def make(family):
    config, model, extra = FAMILIES[family]
    torch.manual_seed(0)
    made = model(config(**SIZE, **extra)).double().eval()
    for name, weight in made.named_parameters():
        if name.endswith("bias"):  # new ones are zero, and any mistake with them would not show
            weight.data.normal_()
    return made


def logits(model):
    return torch.cat([model(input_ids=torch.tensor([row])).logits[0] for row in ROWS])


@families
def test_cut_layers_give_the_output_of_a_model_that_skips_them(family):
    model, reference = make(family), make(family)
    kept = keep_layers(block_influence(model, batches(ROWS, 2, 0)), 3)
    for at, layer in enumerate(reference.model.layers):
        if at not in kept:
            layer.register_forward_hook(lambda _, args, out: args[0])
    cut_layers(model, kept)
    assert len(model.model.layers) == model.config.num_hidden_layers == 3
    torch.testing.assert_close(logits(model), logits(reference), rtol=0, atol=1e-12)
    # Decoding step by step needs each layer's own place in the cache.
    prompt = torch.tensor([ROWS[2]])
    cached = model.generate(prompt, max_new_tokens=5, do_sample=False, use_cache=True)
    plain = model.generate(prompt, max_new_tokens=5, do_sample=False, use_cache=False)
    assert cached.tolist() == plain.tolist()


@families
def test_influence_is_one_minus_the_mean_cosine_of_input_and_output(family):
    """Against the hidden states of one row at a time, without padding."""
    model = make(family)
    cosines = []
    for row in ROWS:
        seen = []
        handles = [
            layer.register_forward_hook(lambda _, args, out, seen=seen: seen.append((args[0], out)))
            for layer in model.model.layers
        ]
        model(input_ids=torch.tensor([row]))
        for handle in handles:
            handle.remove()
        cosines.append(torch.stack([torch.cosine_similarity(a[0], b[0], -1) for a, b in seen]))
    wanted = 1 - torch.cat(cosines, dim=1).mean(1)
    for size in (1, 3):  # padding to the longest row of a batch changes nothing
        found = block_influence(model, batches(ROWS, size, 0))
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    assert found.std() > 1e-3
    assert not any(layer._forward_hooks for layer in model.model.layers)


@families
def test_importance_is_the_mean_absolute_activation(family):
    model = make(family)
    seen = []
    mlp = model.model.layers[1].mlp
    handle = mlp.register_forward_hook(lambda _, args, out: seen.append(args[0][0]))
    logits(model)
    handle.remove()
    given = torch.cat(seen)
    wanted = (torch.nn.functional.silu(mlp.gate_proj(given)) * mlp.up_proj(given)).abs().mean(0)
    found = neuron_importance(model, batches(ROWS, 3, 0))
    assert found.shape == (5, 48)
    torch.testing.assert_close(found[1], wanted.detach(), rtol=0, atol=1e-12)


@families
def test_neurons_without_output_weights_can_go(family):
    model = make(family)
    generator = torch.Generator().manual_seed(0)
    kept = [torch.randperm(48, generator=generator)[:32].sort().values.tolist() for _ in range(5)]
    for layer, neurons in zip(model.model.layers, kept, strict=True):
        gone = sorted(set(range(48)) - set(neurons))
        layer.mlp.down_proj.weight.data[:, gone] = 0
    wanted = logits(model)
    cut_neurons(model, kept)
    torch.testing.assert_close(logits(model), wanted, rtol=0, atol=1e-12)
    cut_neurons(model, [list(range(16))] * 5)  # and these do matter
    assert (logits(model) - wanted).abs().max() > 1e-3


@families
def test_silent_neurons_are_the_ones_cut(family):
    model = make(family)
    for number, layer in enumerate(model.model.layers):
        for part in [layer.mlp.up_proj.weight, layer.mlp.up_proj.bias]:
            if part is not None:
                part.data[number : number + 16] = 0
    wanted = logits(model)
    kept = keep_neurons(neuron_importance(model, batches(ROWS, 2, 0)), 32)
    assert kept[3] == [at for at in range(48) if not 3 <= at < 19]
    cut_neurons(model, kept)
    torch.testing.assert_close(logits(model), wanted, rtol=0, atol=1e-12)


@families
def test_a_cut_model_is_a_plain_checkpoint(family, tmp_path):
    model = make(family)
    types = list(model.config.layer_types or []) if family == "qwen2" else []
    cut_layers(model, [0, 2, 4])
    cut_neurons(model, keep_neurons(neuron_importance(model, batches(ROWS, 2, 0)), 40))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert type(loaded) is type(model)
    assert (loaded.config.num_hidden_layers, loaded.config.intermediate_size) == (3, 40)
    if types:
        assert loaded.config.layer_types == [types[at] for at in (0, 2, 4)]
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=1e-12)
    assert {name: weight.shape for name, weight in loaded.named_parameters()} == {
        name: weight.shape for name, weight in model.named_parameters()
    }


@families
def test_parameters_are_as_counted(family):
    model = make(family)
    predicted = count_parameters(model.config, layers=2, width=24)
    assert count_parameters(model.config) == sum(p.numel() for p in model.parameters())
    cut_layers(model, [1, 3])
    cut_neurons(model, [list(range(24))] * 2)
    assert predicted == sum(p.numel() for p in model.parameters())
    assert predicted == count_parameters(model.config)


def test_known_models_have_their_published_sizes():
    smollm2 = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    assert count_parameters(smollm2) == 134_515_008
    qwen = Qwen2Config(
        vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
        num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    assert count_parameters(qwen) == 494_032_768


def test_equals_are_kept_in_order():
    assert keep_layers(torch.tensor([0.1, 0.5, 0.1, 0.1]), 3) == [0, 1, 2]
    assert keep_neurons(torch.tensor([[1.0, 1.0, 2.0], [0.0, 3.0, 2.0]]), 2) == [[0, 2], [1, 2]]


def test_impossible_cuts_are_named():
    model = make("llama")
    for kept in ([], [1, 0], [0, 0], [0, 5]):
        with pytest.raises(UserError, match="expected ascending numbers from 0 to 4"):
            cut_layers(copy.deepcopy(model), kept)
    for neurons in ([[0]] * 4, [[0]] * 4 + [[0, 1]], [[]] * 5):
        with pytest.raises(UserError, match="expected 5 layers of one width"):
            cut_neurons(model, neurons)
    model.config.model_type = "gemma"
    with pytest.raises(UserError, match="found 'gemma', can prune: llama, qwen2"):
        count_parameters(model.config)
