"""Plans on the configuration of a model of 70B parameters are shown in seconds."""

import pytest

from benchmarks.large_models import PLANS, shown

STORED = {
    "tie": "parameters           16,648.51 M of 70,553.71 M unshared (23.6%)",
    "bank": "parameters           43,601.11 M of 70,553.71 M unshared (61.8%)",
    "narrow": "parameters           56,863.50 M of 70,553.71 M unshared (80.6%)",
    "drop": "parameters           63,708.47 M of 70,553.71 M unshared (90.3%)",
    "lowrank": "parameters           17,311.21 M of 70,553.71 M unshared (24.5%)",
}


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
def test_a_plan_on_70b_parameters_is_shown_in_seconds_and_2_gb(plan):
    """Seconds of CPU of the quicker of two runs; twice the 10 of a quiet and quick machine."""
    costs = [shown("70B", plan) for _ in range(2)]
    assert STORED[plan] in costs[0].text
    assert min(cost.cpu_s for cost in costs) <= 20
    assert max(cost.memory_mib for cost in costs) <= 2000
