"""llama.cpp's own server, from a wheel, in a process of its own."""

import subprocess
import sys
from contextlib import contextmanager

PACKAGE = "xllamacpp==2026.10.11549"
SERVER = """
import sys
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel = sys.argv[1], 2048, 2
params.hostnames, params.port = ["127.0.0.1"], 0
params.cpuparams.n_threads = 1
server = xllamacpp.Server(params)
print("at", server.listening_address, flush=True)
sys.stdin.readline()
"""


def install_server(folder):
    """The folder, with the package in it."""
    pip = [sys.executable, "-m", "pip", "--quiet", "install", "--no-deps", "--target"]
    subprocess.run([*pip, folder, PACKAGE], check=True)
    return folder


@contextmanager
def serve(lib, weights):
    """The base URL of a server of one GGUF file."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, weights],
        env={"PYTHONPATH": str(lib)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        lines = iter(process.stdout.readline, "")
        yield next(line.split()[1] for line in lines if line.startswith("at "))
    finally:
        process.kill()
        process.wait()
