"""Export: parity with PyTorch, same bytes twice, nothing half-made."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import LESSONS, files
from transformers import LlamaModel

from supertiny.drafting import Drafts
from supertiny.errors import UserError
from supertiny.export import MAX_POSITIONS, export_onnx, parity
from supertiny.io import read_json
from supertiny.runtime import OnnxStudent

GIT_NAME = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
QUERIES = [lesson["query"] for lesson in LESSONS]


def test_fp32_gives_the_tokens_and_logits_of_torch(taught_model, taught_onnx):
    found = parity(taught_model, taught_onnx, QUERIES, 24)
    assert found["greedy_identical"] == found["parity_rows"] == len(QUERIES)
    assert 0 < found["max_abs_logit_difference"] < 1e-3


def test_parity_sees_that_a_model_is_another_one(taught_model, tiny_onnx):
    found = parity(taught_model, tiny_onnx, QUERIES, 24)
    assert found["greedy_identical"] < found["parity_rows"]
    assert found["max_abs_logit_difference"] > 0.1


def test_logits_of_later_steps_are_compared_too(taught_onnx):
    student = OnnxStudent(taught_onnx)
    prompt = student.encode(QUERIES[3])
    answer = [*student.generate([prompt], 64)[0], 2]
    logits = student.logits(prompt, answer)
    assert len(answer) > 3
    assert logits.argmax(-1).tolist() == answer


@pytest.mark.parametrize("limit", [3, 64])
def test_logits_of_a_free_run_are_those_its_tokens_were_chosen_by(taught_onnx, limit):
    student = OnnxStudent(taught_onnx)
    prompt = student.encode(QUERIES[3])
    ids, logits = student.generate_with_logits(prompt, limit)
    assert ids == student.generate([prompt], limit)[0]
    chosen = logits.argmax(-1).tolist()
    assert len(chosen) == (limit if limit == 3 else len(ids) + 1)
    assert student.until_end(chosen) == ids
    assert np.array_equal(logits, student.logits(prompt, chosen))


def test_onnx_has_given_every_answer_before_torch_reads_the_first(
    taught_model, taught_onnx, monkeypatch
):
    order = []
    forward, free = LlamaModel.forward, OnnxStudent.generate_with_logits
    monkeypatch.setattr(
        LlamaModel, "forward", lambda *a, **k: order.append("torch") or forward(*a, **k)
    )
    monkeypatch.setattr(
        OnnxStudent, "generate_with_logits", lambda *a: order.append("onnx") or free(*a)
    )
    parity(taught_model, taught_onnx, QUERIES, 24)
    assert order == sorted(order)
    assert order.count("onnx") == len(QUERIES)
    assert order.count("torch") > 0


def test_two_exports_have_the_same_bytes_and_no_path(tiny_model, tiny_onnx, lamps, tmp_path):
    export_onnx(tiny_model, lamps, tmp_path / "deep" / "again")
    first, second = files(tiny_onnx), files(tmp_path / "deep" / "again")
    assert first == second
    traces = (str(tmp_path).encode(), str(tiny_model).encode(), str(Path.home()).encode() + b"/")
    assert [name for name, data in second.items() if any(trace in data for trace in traces)] == []


def test_a_commit_of_the_repository_around_does_not_change_the_model(
    tiny_model, tiny_onnx, lamps, tmp_path, monkeypatch
):
    for command in ("init --quiet", "commit --quiet --allow-empty --message first"):
        subprocess.run(["git", *GIT_NAME, *command.split()], check=True, cwd=tmp_path)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    export_onnx(tiny_model, lamps, tmp_path / "again")
    assert files(tmp_path / "again") == files(tiny_onnx)


def test_a_failed_build_leaves_the_old_folder_and_nothing_else(tiny_model, lamps, tmp_path):
    out = tmp_path / "model"
    out.mkdir()
    (out / "old").write_text("old")

    class Failing(Drafts):
        def write(self, path: Path) -> None:
            assert path.with_name("model.onnx").is_file()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        export_onnx(tiny_model, lamps, out, Failing({}, {}, []))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert [path.name for path in out.iterdir()] == ["old"]


def test_only_a_model_with_drafts_gives_the_logits_of_every_position(
    tiny_onnx, tiny_model, lamps, tmp_path
):
    export_onnx(tiny_model, lamps, tmp_path / "drafted", drafts=Drafts({}, {}, [2]))
    for folder, positions in ((tiny_onnx, 1), (tmp_path / "drafted", 4)):
        generator = OnnxStudent(folder).engine.generator(1, 8)
        generator.append_tokens(np.array([[1, 5, 6, 7]], dtype=np.int32))
        assert np.array(generator.get_output("logits")).shape[1] == positions


def test_missing_weights_are_a_users_mistake(lamps, tmp_path):
    with pytest.raises(UserError, match="dvc repro"):
        export_onnx(tmp_path / "none", lamps, tmp_path / "out")
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 64}))
    with pytest.raises(UserError, match="builder failed"):
        export_onnx(tmp_path, lamps, tmp_path / "out")


def test_the_tokenizer_is_the_students_without_its_layout(tiny_onnx, tiny_model):
    ours, students = tiny_onnx / "tokenizer.json", tiny_model / "tokenizer.json"
    assert read_json(ours) == read_json(students)
    assert "\n" not in ours.read_text(encoding="utf-8")
    assert ours.stat().st_size < 0.6 * students.stat().st_size


def test_positions_that_no_query_reaches_are_not_tabulated(tiny_onnx, tiny_model):
    assert read_json(tiny_model / "config.json")["max_position_embeddings"] > MAX_POSITIONS
    graph = onnx.load(tiny_onnx / "model.onnx", load_external_data=False).graph
    tables = [tensor for tensor in graph.initializer if tensor.name in ("cos_cache", "sin_cache")]
    assert [tensor.dims[0] for tensor in tables] == [MAX_POSITIONS, MAX_POSITIONS]
    assert not any(path.is_symlink() for path in tiny_onnx.rglob("*"))
