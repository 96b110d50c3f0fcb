"""Checkpoints by their name on the hub, against a local stand-in for it."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from know.prediction.hub import NAME, located
from know.weights.reading import CheckpointError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("org/name", ("org/name", None)),
        ("org/name@checkpoint-100", ("org/name", "checkpoint-100")),
        ("org/name.v2@refs/pr/1", ("org/name.v2", "refs/pr/1")),
        ("name", None),
        ("/org/name", None),
        ("../org/name", None),
        ("a/b/c", None),
    ],
)
def test_what_reads_like_a_name_on_the_hub(text, parts):
    found = NAME.fullmatch(text)
    assert (found and found.groups()) == parts


def test_files_and_folders_that_are_there_are_taken_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("org/name").mkdir(parents=True)
    assert located(Path("org/name")) == Path("org/name")
    assert located(Path("org/gone.safetensors")) == Path("org/gone.safetensors")


def test_without_the_extra_the_message_names_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"org/name: no such file; .* pip install 'know\[hub\]'"):
        located(Path("org/name"))


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as fetching a repository asks for; files by revision are in ``content``."""

    content: dict[str, dict[str, bytes]]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"] and (files := self.content.get(parts[-1])) is not None:
            siblings = [{"rfilename": name} for name in files]
            self._send(json.dumps({"id": "org/name", "sha": COMMIT, "siblings": siblings}).encode())
        elif parts[:2] == ["api", "models"] and parts[4:] == ["tree", COMMIT]:
            files = self.content["checkpoint-1"]
            entries = [{"type": "file", "path": n, "size": len(data), "oid": "0" * 40} for n, data in files.items()]
            self._send(json.dumps(entries).encode())
        elif parts[2:3] == ["resolve"] and (data := self.content["checkpoint-1"].get(parts[-1])) is not None:
            self._send(data)
        else:
            self.send_error(404)

    def _send(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def test_a_name_on_the_hub_is_fetched(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    Hub.content = {
        "checkpoint-1": {"model.safetensors": save({"w": torch.ones(3)}), "config.json": b"{}", "optimizer.pt": b"no"}
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.chdir(tmp_path)
    address = f"http://127.0.0.1:{server.server_port}"
    import huggingface_hub.file_download as download

    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(download, "HUGGINGFACE_CO_URL_TEMPLATE", constants.HUGGINGFACE_CO_URL_TEMPLATE, raising=False)
    try:
        folder = located(Path("org/name@checkpoint-1"))
        assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json"}
        assert load_file(folder / "model.safetensors")["w"].tolist() == [1, 1, 1]
        with pytest.raises(CheckpointError, match="org/name@other: no such file, and not to be had from the hub"):
            located(Path("org/name@other"))
    finally:
        server.shutdown()
