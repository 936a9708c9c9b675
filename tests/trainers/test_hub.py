"""Models of the hub, against a server on this machine that answers as the hub does."""

import base64
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import ClassVar

import pytest

from sharetune.spaces.errors import ModelError, RunError
from sharetune.trainers import load_shared
from sharetune.trainers.hub import push

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _entry(name, size):
    return {"type": "file", "path": name, "size": size, "oid": "0" * 40}


class Hub(BaseHTTPRequestHandler):
    """A hub whose one repository holds `files`, and which knows one token."""

    files: ClassVar[dict[str, bytes]] = {}

    @property
    def page(self):
        return f"http://{self.headers['Host']}/user/name"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != "Bearer hf_right":
            return self._answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            return self._answer(200, {"url": self.page})
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            return self._answer(200, {"files": modes})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self._answer(200, {"commitUrl": f"{self.page}/commit/{COMMIT}", "commitOid": COMMIT})

    def do_GET(self):
        if "/tree/" in self.path:
            sizes = {name: len(content) for name, content in self.files.items()}
            return self._answer(200, [_entry(*each) for each in sizes.items()])
        if "/api/models/" in self.path:
            names = [{"rfilename": name} for name in self.files]
            return self._answer(200, {"id": "user/name", "sha": COMMIT, "siblings": names})
        content = self.files.get(self.path.partition(f"/resolve/{COMMIT}/")[2])
        if content is None:
            return self._answer(404, {"error": "Entry not found"})
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hash(content)}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
        return None

    do_HEAD = do_GET

    def _answer(self, code, found):
        text = json.dumps(found).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    Hub.files.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def python(code, address, home, token="hf_right"):
    """Run code in a process whose hub is at `address`."""
    own = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home)}
    own |= {"HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=300,
    )


ROUND_TRIP = """
import torch
from transformers import BertConfig, BertForSequenceClassification
from sharetune import load_shared, share_params
from sharetune.trainers.hub import push
from pathlib import Path
config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=4, num_attention_heads=2,
                    intermediate_size=32)
model = BertForSequenceClassification(config).eval()
share_params(model, 0, 3, 0.5)
model.save_pretrained("out")
print(push(Path("out"), "user/name"))
again = load_shared("user/name")
ids = torch.arange(8)[None]
torch.testing.assert_close(model.eval()(ids).logits, again(ids).logits)
"""


@pytest.mark.slow
def test_a_model_is_uploaded_and_loaded_by_its_name(hub, tmp_path):
    done = python(f"import os; os.chdir({str(tmp_path)!r})\n{ROUND_TRIP}", hub, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub}/user/name"
    assert {"config.json", "model.safetensors"} <= set(Hub.files)


@pytest.mark.slow
def test_a_refused_upload_is_one_error_with_a_hint(hub, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("{}")
    code = (
        "from pathlib import Path\nfrom sharetune.spaces.errors import RunError\n"
        "from sharetune.trainers.hub import push\n"
        f"try: push(Path({str(tmp_path / 'out')!r}), 'user/name')\n"
        "except RunError as error: print(error.message, error.hint)"
    )
    done = python(code, hub, tmp_path / "home", token="hf_wrong")
    assert "user/name was not uploaded: " in done.stdout, done.stderr
    assert "hf auth login" in done.stdout and "401" in done.stdout


def test_without_the_hub_a_name_is_one_error():
    with pytest.raises(ModelError, match="user/name is no folder here, and the hub does not"):
        load_shared("user/name")


def test_a_name_that_is_none_is_refused(tmp_path):
    with pytest.raises(RunError, match="is named user/name, but got 'name'"):
        push(tmp_path, "name")
