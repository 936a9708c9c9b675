"""Fixtures for all tests: tiny models, offline."""

import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("RAY_worker_niceness", "0")  # else workers wait for all other tests

import pytest


def pytest_collection_finish():
    """Leave what imports made out of every later collection of garbage: a million objects of
    torch and ray, which each training and each measured latency would walk through."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_servers(tmp_path_factory):
    """The list of servers that a user has named is the tests' own."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny models are fastest on one thread, and sums are the same every time."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
