"""Run a study from its configuration to its report."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path

from sharetune.results.page.report import write_report
from sharetune.results.reading import attributes as record
from sharetune.results.reading.servers import name_plugins
from sharetune.search.config import StudyConfig
from sharetune.search.latency_limit import measured
from sharetune.search.live import Live
from sharetune.search.progress import Progress
from sharetune.search.progress_bars import Steps
from sharetune.search.search import Search
from sharetune.search.signals import stopped_at_once
from sharetune.search.starting import (
    NOTHING_LIVE,
    Rehearse,
    check_folder,
    new_folder,
    prepared_search,
    real_evaluator,
    reopened,
)
from sharetune.search.study.writer import one_error, reading
from sharetune.search.workers import in_process
from sharetune.spaces.errors import ConfigError
from sharetune.spaces.evaluator import Evaluator, JobResources
from sharetune.spaces.run_folder import RunFolder


def run(
    config: StudyConfig,
    *,
    out: Path,
    resume: bool = False,
    address: str | None = None,
    evaluator: Evaluator | None = None,
    live: Live = NOTHING_LIVE,
) -> Path:
    """Search until the budget is spent, measure latency, write the report; return `out`.

    `resume` continues the study in `out` to exactly its budget; `address` joins a Ray cluster.
    `evaluator` replaces the model and its task, for tests; `live` are functions of the caller that
    the study names. Raises :class:`SharetuneError` for a user's mistake, before anything is
    trained, and ``KeyboardInterrupt`` on Ctrl-C or SIGTERM; what is finished is kept.
    """
    folder = RunFolder(out)
    check_folder(folder, resume=resume)
    name_plugins(config.plugins)
    folder = RunFolder(out.resolve())  # workers have a working directory of their own
    with one_error(folder.path), ExitStack() as cleanup:
        with cluster(config, address) as connected:
            if connected is not None and address is not None:
                connected.result()  # a wrong address is noticed before a run folder is made
            earlier = reopened(config, folder) if resume else None
            if earlier is not None:
                cleanup.callback(earlier.close)
            with nullcontext(earlier) if resume else new_folder(folder) as held:
                prepared = evaluator or real_evaluator(config, folder, live)
                rehearse = _rehearsal(config, connected)
                with reading(folder.path) if resume else nullcontext(), one_error(folder.path):
                    searching = prepared_search(config, folder, prepared, held, rehearse)
                searching.callbacks, searching.last_words = live.callbacks, live.last_words
            if earlier is None:
                cleanup.callback(searching.writer.close)
            with stopped_at_once(), Progress(searching):
                _execute(searching)
        with stopped_at_once():
            _measure_latency(searching)
            write_report(folder.path)
    return folder.path


def _rehearsal(config: StudyConfig, connected: Future[None] | None) -> Rehearse:
    """Return how a first batch is tried: in this process, or by workers where they have GPUs."""
    if connected is not None:
        from sharetune.search.workers import ray_cluster

        connected.result()
        if ray_cluster.worker_resources(config)["GPU"]:
            return partial(ray_cluster.rehearse, config)
    resources = JobResources(threads=config.resources.cpu)
    return lambda evaluator, candidate: evaluator.rehearse(candidate, resources)


def _execute(searching: Search) -> None:
    if searching.config.executor == "local":
        in_process.execute(searching)
        return
    from sharetune.search.workers import ray_tune

    ray_tune.execute(searching)


@contextmanager
def cluster(config: StudyConfig, address: str | None) -> Iterator[Future[None] | None]:
    """Connect to the workers while the study is prepared; yield None to run in this process.

    On leaving, the workers of a local cluster are ended. Raises :class:`ConfigError` for an
    `address` where none is connected to.
    """
    if address is not None and config.executor == "local":
        raise ConfigError(
            f"executor: local is this process, but got the address {address} of a cluster",
            "leave out --address, or executor",
        )
    if config.executor == "local":
        yield None
        return
    from sharetune.search.workers import ray_cluster

    with ThreadPoolExecutor(max_workers=1) as pool:
        connected = pool.submit(ray_cluster.connect, address, config)
        try:
            yield connected
        finally:
            connected.exception()
            ray_cluster.disconnect()


def _measure_latency(searching: Search) -> None:
    """Measure the front's and the anchors' kept models that have no latency yet."""
    config, writer, ledger = searching.config, searching.writer, searching.ledger
    if not config.latency.rounds:
        return
    _note_measured(searching)
    wanted = {trial.number: trial for trial in [*ledger.front, *ledger.anchors]}
    left = [
        (number, searching.run.trial(number).model)
        for number in sorted(wanted)
        if f"{record.LATENCY}{number}" not in writer.attributes
        and searching.run.trial(number).model.exists()
    ]
    if not left:
        return
    with Steps("measuring latency", len(left)) as steps:
        for number, folder in left:
            found = measured(config, searching.evaluator, folder, wanted[number].candidate)
            writer.note(f"{record.LATENCY}{number}", found)
            steps.advance()


def _note_measured(searching: Search) -> None:
    """Note the latency of trials whose architecture was measured before they were trained."""
    noted = searching.writer.attributes
    for trial in searching.ledger.complete:
        key, found = f"{record.LATENCY}{trial.number}", searching.latency.known(trial.candidate)
        if found is not None and key not in noted:
            searching.writer.note(key, found)
