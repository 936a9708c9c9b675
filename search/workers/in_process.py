"""Runs jobs one after another in this process: for tests, debugging and one device."""

from functools import partial

from sharetune.search.config import StudyConfig
from sharetune.search.driver import Driver
from sharetune.search.jobs import attempt


def execute(driver: Driver, config: StudyConfig) -> None:
    """Trains until the driver has nothing more."""
    while (job := driver.next()) is not None:
        report = partial(driver.reached, job)
        outcome = attempt(driver.trainee.evaluate, job, driver.facts, config.resources, report)
        driver.finish(job, outcome)
