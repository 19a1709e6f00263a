"""llama.cpp, by its own converter and server, answers as the pruned checkpoint does in PyTorch."""

import json
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.request
from pathlib import Path

import pytest
from conftest import LESSONS
from llamacpp import install_server, serve
from test_prune_cut import QUERIES, WHOLE

from supertiny.prune.cut import prune
from supertiny.student import TorchStudent

SOURCES = "llama-cpp-python==0.3.36"  # llama.cpp's sources are in it
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "to_gguf.py"
TOKENS = 24


@pytest.fixture(scope="module")
def converter(tmp_path_factory):
    """llama.cpp's converter with the packages it imports."""
    folder = tmp_path_factory.mktemp("sources")
    pip = [sys.executable, "-m", "pip", "--quiet"]
    download = [*pip, "download", "--no-deps", "--no-binary", ":all:", "-d", folder, SOURCES]
    subprocess.run(download, check=True)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    found = next(folder.glob("*/vendor/llama.cpp/convert_hf_to_gguf.py"))
    # Beside the converter, where it looks first.
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", found.parent, "sentencepiece"], check=True
    )
    return found


def post(base, path, **body):
    data = json.dumps(body).encode()
    request = urllib.request.Request(base + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


@pytest.mark.network
@pytest.mark.timeout(900)
def test_a_line_in_the_converters_own_table_is_all_a_pruned_model_needs(
    converter, taught_model, lamps, tmp_path
):
    cut, ours, theirs = tmp_path / "cut", tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    prune(taught_model, QUERIES, lamps, WHOLE, cut)
    subprocess.run([sys.executable, SCRIPT, converter, cut, ours], check=True)
    home = tmp_path / "llama.cpp"
    shutil.copytree(converter.parent, home)
    convert = [sys.executable, home / converter.name, cut, "--outfile", theirs, "--outtype", "f32"]

    refused = subprocess.run(convert, capture_output=True, text=True, check=False)
    assert "BPE pre-tokenizer was not recognized" in refused.stderr and not theirs.exists()
    found = re.search(r"chkhsh: +([0-9a-f]{64})", refused.stderr)[1]
    table, end = home / "conversion" / "base.py", "        if res is None:\n"
    before, after = table.read_text().split(end)
    line = f'        if chkhsh == "{found}":\n            res = "smollm"\n'
    table.write_text(before + line + end + after)

    subprocess.run(convert, check=True)
    assert theirs.read_bytes() == ours.read_bytes()


@pytest.mark.network
@pytest.mark.timeout(900)
def test_a_pruned_model_answers_in_llama_cpp_as_in_pytorch(
    converter, taught_model, lamps, tmp_path
):
    cut, path = tmp_path / "cut", tmp_path / "cut.gguf"
    result = prune(taught_model, QUERIES, lamps, WHOLE, cut)
    assert result.metrics["vocabulary"] < result.metrics["vocabulary_before"]
    subprocess.run([sys.executable, SCRIPT, converter, cut, path], check=True)
    student = TorchStudent(cut, lamps)
    tokenizer = student.tokenizer
    queries = [row["query"] for row in LESSONS]
    with serve(install_server(tmp_path / "lib"), path) as base:
        for query, text in zip(queries, student.answers(queries, TOKENS, 4), strict=True):
            prompt = tokenizer.bos_token + student.prompt(query)
            ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            found = post(base, "/tokenize", content=prompt, add_special=False, parse_special=True)
            assert found["tokens"] == ids
            answer = post(
                base, "/completion", prompt=ids, n_predict=TOKENS, temperature=0, cache_prompt=False
            )
            assert answer["content"] == text
