"""Fixtures of the tests of the search."""

from importlib import import_module

import pytest


@pytest.fixture(autouse=True)
def report(request, monkeypatch):
    """Leave out the report, which takes longer than a whole search over the fake evaluator.

    Tests that read the report of their search are marked `report`.
    """
    if "report" not in request.keywords:
        monkeypatch.setattr(
            import_module("sharetune.search.run"), "write_report", lambda path: path
        )
