"""What a design costs in each draw, by hand: a machine, what it serves and what is assumed, all of round numbers."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from hwmodels.platform import Platform
from pregate.ask.timing.time_errors import OF_FIT, OWN_ERROR, SCATTER, TimeError, interval_of_ratio
from pregate.economics.assumptions import Assumption, Assumptions, load_assumptions
from pregate.economics.cost_draws import DrawnCost, Draws, Estimate, estimate, unfitted_error
from pregate.economics.serving import Served
from pregate.named import load_hardware
from tests.unit.pregate.economics.round_numbers import CARD, REQUEST, SERVED, SURE
from traces.errors import InvalidInput

YEAR_S = 365.25 * 86400
N = 4000


def assumed(**changes: float | tuple[float, float, float] | None) -> Assumptions:
    """All of `SURE`, with others in place; None leaves one out."""
    found = {}
    for name, value in (SURE | changes).items():
        if value is not None:
            middle, low, high = value if isinstance(value, tuple) else (value,) * 3
            found[name] = Assumption(middle, low, high, "1", "a test", "2026-01-01")
    return Assumptions(found)


def machine(n_cards: int = 1, stack: str = "llama-cpp") -> Platform:
    return load_hardware(CARD if n_cards == 1 else f"{n_cards}x {CARD}", stack)


def cost(
    basis: str = "own", rate: float = 100.0, served: Served = SERVED, cards: int = 1, **changes: float
) -> DrawnCost:
    return Draws(machine(cards), basis, assumed(**changes)).cost(served, REQUEST, rate)


def middle(values: np.ndarray) -> float:
    """Of what no assumption leaves in doubt."""
    assert values.shape == (1 + N,)
    assert np.all(values == values[0])
    return float(values[0])


def test_a_bought_machine_that_serves_a_quarter_of_the_time() -> None:
    """A token takes 6 s x 3 / 32; the card idles at 80 W of 400 and adds 0.75 of what it is busier, 240 W."""
    found = cost()
    token_s = 6.0 * 3 / 32
    joules = (token_s * (80 + 0.75 * 240 + 100 + 0.5 * 200) + 3 * token_s * 180 + 0.5 * 3) * 1.5
    assert middle(found.joules) == pytest.approx(joules, rel=1e-12)
    usd_per_year = 20_000 * (1 / 4 + 0.1)
    energy_usd = joules / 3.6e6 * 0.36
    assert middle(found.per_token) == pytest.approx(usd_per_year / YEAR_S * token_s * 4 + energy_usd, rel=1e-12)
    n_machines = math.ceil(100 * 8 * token_s * 4)
    assert middle(found.machines) == n_machines == 1800
    assert middle(found.running_per_year) == pytest.approx(
        n_machines * usd_per_year + 100 * 8 * YEAR_S * energy_usd, rel=1e-12
    )
    assert (middle(found.days_usd), middle(found.years), found.served) == (40_000, 4, SERVED)


def test_a_rented_machine_costs_its_hours_and_no_energy() -> None:
    found = cost("rent")
    assert middle(found.per_token) == pytest.approx(2 / 3600 * 6.0 * 3 / 32 * 4, rel=1e-12)
    assert middle(found.running_per_year) == pytest.approx(1800 * 2 * 365.25 * 24, rel=1e-12)


def test_a_machine_of_several_cards_pays_for_all_of_them_and_idles_all_but_one() -> None:
    one, three = cost(), cost(cards=3)
    token_s = 6.0 * 3 / 32
    assert middle(three.joules - one.joules) == pytest.approx(4 * token_s * 2 * 80 * 1.5, rel=1e-9)
    assert middle(cost("rent", cards=3).per_token / cost("rent").per_token) == pytest.approx(3, rel=1e-12)
    fixed = [middle(each.per_token - each.joules / 3.6e6 * 0.36) for each in (one, three)]
    assert fixed[1] / fixed[0] == pytest.approx((3 * 15000 + 5000) / 20_000, rel=1e-9)


def test_cards_that_share_every_layer_all_compute_and_each_brings_what_a_run_counts_of_one() -> None:
    one, three = (Draws(machine(n, "vllm"), "own", assumed()) for n in (1, 3))
    token_s = 6.0 * 3 / 32
    more = 2 * (token_s * (80 + 0.75 * 240) + 3 * token_s * 80 + 0.5 * 3) * 1.5
    served = [SERVED, dataclasses.replace(SERVED, n_at_once=3)]
    pairs = list(zip((one, three), served, strict=True))
    joules = [middle(draws.cost(each, REQUEST, 100.0).joules) for draws, each in pairs]
    assert joules[1] - joules[0] == pytest.approx(more, rel=1e-9)
    usd = [middle(draws.usd_per_token(each, REQUEST, 1.0)) for draws, each in pairs]
    energy = 2 * (80 / 8 + token_s * 0.75 * 240 + 0.5 * 3) * 1.5 / 3.6e6 * 0.36
    fixed = 2 * 15000 * (1 / 4 + 0.1) / YEAR_S / 8
    assert usd[1] - usd[0] == pytest.approx(fixed + energy, rel=1e-9)


@pytest.mark.parametrize(
    ("stack", "design", "name"),
    [
        ("llama-cpp", "gpu_only@experts=cpu:3", "gpu_only"),
        ("vllm", "gpu_only@turns=2@experts=whole", "gpu_only"),
        ("vllm", "on_demand+lru", "other"),
        ("streams", "gpu_only@experts=cpu:3", "other"),
    ],
)
def test_a_placement_that_an_engine_has_flags_for_is_an_engine_as_installed(stack: str, design: str, name: str) -> None:
    draws = Draws(machine(1, stack), "own", assumed(**{"engineering_days.gpu_only": 2.0}))
    draws.cost(dataclasses.replace(SERVED, design=design), REQUEST, 1.0)
    assert {one for one in draws.looked_at if one.startswith("engineering_days")} == {f"engineering_days.{name}"}


def test_no_machine_more_is_bought_for_a_rounding_error() -> None:
    """24 tokens a second at an eighth of a second each, a quarter of the time: twelve machines, and not thirteen."""
    served = dataclasses.replace(SERVED, request_s=4.0 / 3)
    assert middle(cost(rate=3.0, served=served).machines) == 12
    assert middle(cost(rate=3.0001, served=served).machines) == 13


def test_hosts_and_cards_never_draw_less_for_being_busy() -> None:
    quiet = cost(host_busy_watts=50.0, busy_share=0.1)
    token_s = 6.0 * 3 / 32
    assert middle(quiet.joules) == pytest.approx((4 * token_s * 180 + 1.5) * 1.5, rel=1e-12)


def test_a_machine_for_one_rate_costs_all_the_time_and_draws_power_by_what_it_does() -> None:
    """One request in 20 s, of which it is busy for 18 s over four; then the card draws 180 W more and the host 100."""
    draws = Draws(machine(), "own", assumed())
    found = middle(draws.usd_per_token(SERVED, REQUEST, 1 / 20))
    token_s = 20 / 8
    joules = (180 * token_s + 6.0 * 3 / 32 * (0.75 * 240 + 0.5 * 200) + 3 * 0.5) * 1.5
    fixed = 20_000 * (1 / 4 + 0.1) / YEAR_S * token_s
    assert found == pytest.approx(fixed + joules / 3.6e6 * 0.36, rel=1e-12)
    rented = middle(Draws(machine(), "rent", assumed()).usd_per_token(SERVED, REQUEST, 1 / 20))
    assert rented == pytest.approx(2 / 3600 * token_s, rel=1e-12)


def test_nobody_moves_to_what_runs_now() -> None:
    found = cost()
    assert found.spent_usd(found).tolist() == (found.running_per_year * 4).tolist()
    for now in (None, cost()):
        assert found.spent_usd(now).tolist() == (found.running_per_year * 4 + 40_000).tolist()


def test_a_fitted_prediction_is_off_as_its_interval_says() -> None:
    fitted = dataclasses.replace(SERVED, error=TimeError(fitted=(-math.log(0.8), math.log(1.5))))
    draws = Draws(machine(), "rent", assumed())
    one = draws.cost(fitted, REQUEST, 100.0)
    slower = one.per_token / (2 / 3600 * 6.0 / 32 * 4)
    assert slower[0] == pytest.approx(1, rel=1e-12)
    assert np.quantile(slower[1:], (0.025, 0.5, 0.975)) == pytest.approx((0.8, 1.0, 1.5), rel=0.03)
    again = draws.cost(fitted, REQUEST, 100.0)
    assert again.per_token.tolist() == one.per_token.tolist()
    assert set(draws.shares(one.per_token)) == {f"{OWN_ERROR}pregate", OF_FIT}


def test_what_a_fit_is_off_by_is_half_shared_by_designs_as_where_they_are_compared() -> None:
    error = TimeError(fitted=(0.3, 0.3))
    fitted, draws = dataclasses.replace(SERVED, error=error), Draws(machine(), "rent", assumed())
    one, other = (
        draws.cost(dataclasses.replace(fitted, design=name), REQUEST, 100.0).per_token[1:]
        for name in ("pregate", "on_demand")
    )
    assert np.corrcoef(np.log(one), np.log(other))[0, 1] == pytest.approx(0.5, abs=0.05)
    of_ratio = np.quantile(one / other, (0.025, 0.975))
    assert of_ratio == pytest.approx(interval_of_ratio(1.0, error, error, shared=True), rel=0.02)
    elsewhere = draws.on(machine()).cost(fitted, REQUEST, 100.0).per_token[1:]
    assert abs(np.corrcoef(np.log(one), np.log(elsewhere))[0, 1]) < 0.1


def test_unfitted_predictions_are_off_together_and_the_widest_is_told() -> None:
    draws = Draws(machine(), "rent", assumed(unfitted_error=None))
    narrow = dataclasses.replace(SERVED, error=TimeError({"stack.hbm_efficiency": -0.5}))
    wide = dataclasses.replace(SERVED, design="on_demand", error=TimeError({"stack.hbm_efficiency": -1.0}))
    ends = [unfitted_error(one, assumed(unfitted_error=None)).high for one in (wide, narrow)]
    assert ends[0] > 1.05 * ends[1]
    for order in ((wide, narrow), (narrow, wide), (narrow, narrow)):
        draws = Draws(machine(), "rent", assumed(unfitted_error=None))
        found = {one.design: draws.cost(one, REQUEST, 100.0) for one in order}
        told = draws.looked_at["unfitted_error"]
        assert told.high == (ends[0] if wide in order else ends[1])
        assert (told.value, told.unit) == (1.0, "1")
    draws = Draws(machine(), "rent", assumed(unfitted_error=None))
    found = {one.design: draws.cost(one, REQUEST, 100.0).per_token for one in (wide, narrow)}
    logs = [np.log(found[one.design] / found[one.design][0])[1:] for one in (wide, narrow)]
    assert np.allclose(logs[0] / math.log(ends[0]), logs[1] / math.log(ends[1]), rtol=1e-9)
    assert logs[0].std() == pytest.approx(math.log(ends[0]) / 1.96, rel=0.05)
    assert set(draws.shares(found[wide.design])) == {f"{SCATTER}stack.hbm_efficiency"}
    assert found[wide.design][0] == pytest.approx(2 / 3600 * 6.0 / 32 * 4, rel=1e-12)


def test_draws_of_a_claim_end_where_the_machine_does() -> None:
    """An efficiency that may rise by a tenth makes nothing faster than that, however far it scatters."""
    capped = TimeError({"stack.hbm_efficiency": -1.0}, {"stack.hbm_efficiency": math.log(1.1)})
    draws = Draws(machine(), "rent", assumed(unfitted_error=None))
    found = draws.cost(dataclasses.replace(SERVED, error=capped), REQUEST, 100.0).per_token
    assert found.min() == pytest.approx(found[0] / 1.1, rel=1e-9)
    low, high = np.quantile(found[1:] / found[0], (0.025, 0.975))
    assert (low, high) == pytest.approx(capped.interval(1.0), rel=0.06)


def test_the_price_of_a_card_is_its_files_where_nothing_is_assumed() -> None:
    draws = Draws(machine(), "own", assumed(**{f"cards.{CARD}.price_usd": None}))
    found = draws.cost(SERVED, REQUEST, 100.0)
    stated = machine().machine.accelerator.price_usd
    assert stated is not None
    said = draws.looked_at[f"cards.{CARD}.price_usd"]
    assert (said.value, said.low, said.high, said.unit) == (stated, 0.7 * stated, 1.3 * stated, "USD")
    assert said.source.startswith("30 % either way assumed; ")
    assert said.date == machine().machine.quantities()["accelerator.price_usd"].date
    assert found.running_per_year[1:].std() > 0
    given = Draws(machine(), "own", assumed())
    given.cost(SERVED, REQUEST, 100.0)
    assert given.looked_at[f"cards.{CARD}.price_usd"].value == 15_000


def test_draws_are_the_same_every_time_and_shared_by_machines() -> None:
    doubtful = assumed(pue=(1.5, 1.2, 2.0), years=(4.0, 3.0, 6.0), unfitted_error=None)
    draws = Draws(machine(), "own", doubtful)
    one = draws.cost(SERVED, REQUEST, 100.0)
    assert one.per_token.tolist() == Draws(machine(), "own", doubtful).cost(SERVED, REQUEST, 100.0).per_token.tolist()
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(N)  # what is looked at first is drawn first
    wide = unfitted_error(SERVED, doubtful).high
    rented = Draws(machine(), "rent", doubtful).cost(SERVED, REQUEST, 100.0)
    assert np.allclose(rented.per_token[1:] / rented.per_token[0], np.exp(normal * math.log(wide) / 1.96), rtol=1e-9)
    other = draws.on(machine(3)).cost(SERVED, REQUEST, 100.0)
    assert other.years.tolist() == one.years.tolist()
    assert other.days_usd.tolist() == one.days_usd.tolist()
    ratio = other.machines / one.machines
    assert np.ptp(ratio[1:]) > 0.1  # what predictions are off by is drawn anew
    moved = draws.on(load_hardware("h100-sxm", "llama-cpp"))
    assert set(moved.looked_at) == set(draws.looked_at)
    with pytest.raises(InvalidInput, match=r"cards\.h100-sxm\.limit_watts"):
        moved.cost(SERVED, REQUEST, 100.0)
    rent = Draws(machine(), "rent", doubtful).on(machine(3))
    assert "electricity_usd_per_kwh" not in rent.looked_at
    assert rent.cost(SERVED, REQUEST, 100.0).per_token[0] == pytest.approx(3 * rented.per_token[0], rel=1e-12)


def test_shares_are_squared_correlations_the_largest_first() -> None:
    draws = Draws(machine(), "own", assumed(pue=(1.5, 1.2, 2.0), years=(4.0, 3.0, 6.0)))
    found = draws.cost(SERVED, REQUEST, 100.0)
    shares = draws.shares(found.years * 2 + (found.joules - found.joules[0]) * 1e-9)
    assert list(shares) == ["years", "pue"]
    assert shares["years"] == pytest.approx(1, abs=1e-6)
    assert shares["pue"] == pytest.approx(np.corrcoef(found.joules[1:], found.years[1:])[0, 1] ** 2, abs=1e-6)
    other = draws.shares(found.joules)
    assert list(other) == ["pue", "years"]
    assert draws.shares(np.zeros(1 + N)) == {}
    only_the_first = np.zeros(1 + N)
    only_the_first[1] = 1.0
    assert set(draws.shares(only_the_first)) == {"pue", "years"}


def test_an_estimate_is_the_middle_and_the_ends_of_the_draws() -> None:
    draws = np.arange(1.0, 201.0)
    rng = np.random.default_rng(1)
    found = estimate(np.concatenate([[77.0], rng.permutation(draws)]))
    assert found == Estimate(77.0, 5.0, 195.0)
    assert estimate(np.array([3.0, 1.0, 2.0])) == Estimate(3.0, 1.0, 2.0)
    assert found.to_list() == [77.0, 5.0, 195.0]
    assert Estimate(1.0, -math.inf, math.nan).to_list() == [1.0, None, None]


def test_the_error_of_what_nobody_fitted_is_a_ratio_with_its_date() -> None:
    found = unfitted_error(SERVED, assumed(unfitted_error=None))
    assert (found.value, found.unit, found.low) == (1.0, "1", pytest.approx(1 / found.high))
    assert found.date.startswith("20")
    assert found.source.startswith("hwmodels/specs/spreads.yaml: the scatter of constants over ")
    given = assumed()
    assert unfitted_error(SERVED, given) is given["unfitted_error"]


def test_shipped_assumptions_cost_a_design_as_those_of_ones_own() -> None:
    found = Draws(machine(), "own", load_assumptions()).cost(SERVED, REQUEST, 1.0)
    assert np.all(found.per_token > 0)
    assert estimate(found.per_token).low < found.per_token[0] < estimate(found.per_token).high


def test_a_price_of_the_users_own_has_no_date() -> None:
    hw = load_hardware(CARD, "streams", {"accelerator.price_usd": "12000"})
    draws = Draws(hw, "own", assumed(**{f"cards.{CARD}.price_usd": None}))
    draws.cost(SERVED, REQUEST, 100.0)
    said = draws.looked_at[f"cards.{CARD}.price_usd"]
    assert (said.value, said.source, said.date) == (12_000, "30 % either way assumed; override", "undated")


def test_the_same_host_is_off_alike_beside_another_card() -> None:
    """A design bound by its host costs as many times as much on both cards in every draw, on another host not."""
    host, card = ({key: 1.0} for key in ("stack.cpu_efficiency", "stack.kernel_s"))
    of_another = {name.replace(f".{CARD}.", ".rtx-4090."): value for name, value in SURE.items() if f".{CARD}." in name}

    def ratios(depends: dict[str, float], host_name: str) -> np.ndarray:
        served = dataclasses.replace(SERVED, error=TimeError(depends))
        draws = Draws(machine(), "own", assumed(unfitted_error=None, **of_another))
        asked = [machine(), load_hardware("rtx-4090", "llama-cpp", overrides={"host": host_name})]
        usd = [draws.on(hw).usd_per_token(served, REQUEST, 100.0) for hw in asked]
        return np.asarray(np.log(usd[0] / usd[1]))

    own = machine().machine.host.name
    assert np.ptp(ratios(host, own)) < 1e-9 < 0.01 < np.ptp(ratios(card, own))
    assert np.ptp(ratios(host, "ryzen-3700x")) > 0.01
