"""An ended trial of Ray Tune is emptied, and Ray Tune can still read it."""

from ray.tune.experiment.trial import Trial

from sharetune.search.pinned.ray_internals import forget


def test_an_ended_trial_keeps_neither_its_job_nor_its_outcome():
    trial = Trial("any", stub=True, config={"job": [0] * 1000}, evaluated_params={"job": [0]})
    trial.run_metadata.last_result = {"outcome": [0] * 1000}
    forget(trial)
    trial.resolve_config_placeholders({})
    assert trial.config == trial.evaluated_params == {}
    assert trial.run_metadata.last_result == {} and trial.placement_group_factory is None
