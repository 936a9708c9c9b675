"""What others may leave in a run folder, in a model or in a study file is read, never run."""

import ast
import json
import os
import pickle

import psutil
import pytest
import ray
from transformers import AutoConfig

from sharetune.results.page.report import write_report
from sharetune.search.commands.export import export_trial
from sharetune.search.run import run
from sharetune.search.study_file import load_config
from sharetune.search.workers import ray_cluster
from sharetune.spaces.errors import ConfigError, ModelError, SharetuneError
from sharetune.trainers.models.pretrained import from_library
from tests.checkpoint import write_checkpoint, write_study_data
from tests.paths import ROOT
from tests.search.studies import study as fake_study
from tests.search.test_faults import study

FILES = [
    p
    for folder in ("search", "results", "trainers", "spaces")
    for p in (ROOT / folder).rglob("*.py")
]


class Bomb:
    """Leaves a file when it is unpickled."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return (os.mkdir, (self.trace,))


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A run folder with the weights of one trial."""
    folder = tmp_path_factory.mktemp("security")
    write_study_data(folder, 30)
    return run(study(folder), out=folder / "run")


@pytest.mark.slow
def test_report_and_export_read_no_pickle(searched, tmp_path):
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    model = searched / "trials" / "0" / "model"
    for name in ("pytorch_model.bin", "training_args.bin", "model.pt", "optimizer.pt"):
        (model / name).write_bytes(bomb)
    for place in (searched, searched / "cache", searched / "trials" / "0"):
        (place / "searcher.pkl").write_bytes(bomb)
    write_report(searched)
    export_trial(searched, 0, tmp_path / "out", "shared")
    (model / "model.safetensors").unlink()
    with pytest.raises(SharetuneError):
        export_trial(searched, 0, tmp_path / "again", "shared")
    assert not (tmp_path / "exploded").exists()
    pickle.loads(bomb)
    assert (tmp_path / "exploded").exists()  # it would have been seen


def test_a_study_file_makes_no_objects(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(f"name: !!python/object/apply:os.mkdir ['{tmp_path / 'exploded'}']\n")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_config(path)
    assert not (tmp_path / "exploded").exists()


def test_code_that_lies_with_a_model_is_not_run(tmp_path):
    write_checkpoint(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    settings = json.loads(config.read_text())
    settings |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    config.write_text(json.dumps(settings))
    (tmp_path / "model" / "own.py").write_text(
        f"import os\nos.mkdir({str(tmp_path / 'exploded')!r})\n"
    )
    with pytest.raises(ModelError, match="needs code of its own to be run, which is never done"):
        from_library(AutoConfig, str(tmp_path / "model"))
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unpickles(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert not names & {"pickle", "cloudpickle", "joblib", "dill", "shelve"}
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "yaml.load"):
            settings = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert settings.get("weights_only") == "True", ast.unparse(node)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_the_servers_of_a_local_cluster_listen_on_localhost_only(monkeypatch):
    monkeypatch.setattr(ray_cluster, "MOST_PRELOADED", 0)
    ray_cluster.connect(None, fake_study(executor="ray"))
    try:
        ray.get(ray.remote(lambda: 1).remote())
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = {
            connection.laddr.ip
            for process in family
            for connection in process.net_connections(kind="inet")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"} and listening
    finally:
        ray_cluster.disconnect()
