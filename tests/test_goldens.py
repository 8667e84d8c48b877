"""Worked cases in float64 from papers and released code; see ``goldens/algorithms.json`` for their sources."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import loss_batch, trajectory
from torch import Tensor

from agentgrpo.advantages import standardize
from agentgrpo.algorithms.gigpo import GiGPO
from agentgrpo.algorithms.grpo import GRPO
from agentgrpo.losses import AGGREGATIONS, aggregate, clip_fraction, clipped_surrogate, kl_k3, masked_ratio
from agentgrpo.types import Denominators, Group

CASES: dict[str, Any] = json.loads((Path(__file__).parent / "goldens" / "algorithms.json").read_text())["cases"]
EXACT, SUMS = 1e-9, 1e-7  # the file's tolerances: the second where eps enters sums

# Ours -> the file's. `seq-mean-token-sum-norm` is the sum over (B * L), as in TRL; the file keeps verl's (L only)
# under the same name.
AGGREGATION_KEYS = {mode: mode for mode in AGGREGATIONS} | {"seq-mean-token-sum-norm": "dr_grpo_trl"}


def float64(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(actual: Tensor, expected: Any, atol: float = EXACT) -> None:
    torch.testing.assert_close(actual.double(), float64(expected), atol=atol, rtol=0)


def outcome(rewards: list[float], **options: Any) -> Tensor:
    """(G,) advantages of one-step episodes."""
    group = Group(tuple(trajectory(("start", reward)) for reward in rewards))
    return torch.cat(GRPO(**options).advantages(group))


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("adv_ddof1_eps1e-6 (verl, verl-agent, RAGEN, slime)", {}),
        ("adv_dr_grpo_no_std", {"scale_by_std": False}),
    ],
)
def test_grpo_outcome(key: str, options: dict[str, Any]) -> None:
    case = CASES["grpo_outcome"]
    close(outcome(case["inputs"]["rewards"], **options), case["expected"][key])


@pytest.mark.parametrize("eps", [1e-4, 1e-6, 1e-8, 1e-9])
def test_standardize_with_other_eps(eps: float) -> None:
    case = CASES["grpo_outcome"]
    digits = f"eps1e-{-round(torch.tensor(eps).log10().item())}"
    expected = next(value for key, value in case["expected"].items() if key.startswith(f"adv_ddof1_{digits} "))
    close(standardize(float64(case["inputs"]["rewards"]), eps=eps), expected)


@pytest.mark.parametrize(("reward", "key"), [(0.0, "adv"), (1.0, "adv_all_ones")])
def test_grpo_zero_variance_group(reward: float, key: str) -> None:
    assert outcome([reward] * 4).tolist() == CASES["grpo_zero_variance_group"]["expected"][key]


def test_grpo_singleton_group() -> None:
    case = CASES["grpo_singleton_group"]
    assert outcome(case["inputs"]["rewards"]).tolist() == case["expected"]["recommended"]


class TestGrpoLossClipKl:
    case = CASES["grpo_loss_clip_kl"]
    inputs, params, expected = case["inputs"], case["params"], case["expected"]
    logp, old, ref = float64(inputs["logp"]), float64(inputs["old_logp"]), float64(inputs["ref_logp"])
    mask = float64(inputs["mask"]).bool()
    advantages = float64(inputs["adv"])[:, None]
    denominators = Denominators(sequences=2, tokens=5, max_length=params["norm_const"])

    def test_ratio(self) -> None:
        ratio = masked_ratio(self.logp, self.old, self.mask)
        close(torch.where(self.mask, ratio, 0.0), self.expected["ratio"])

    def test_k3(self) -> None:
        close(kl_k3(self.logp, self.ref, self.mask), self.expected["k3"])

    def test_per_token_loss(self) -> None:
        loss = clipped_surrogate(self.logp, self.old, self.advantages, self.mask)
        close(loss, self.expected["per_token_policy_loss"])

    @pytest.mark.parametrize("mode", AGGREGATIONS)
    def test_policy_loss(self, mode: Any) -> None:
        loss = clipped_surrogate(self.logp, self.old, self.advantages, self.mask)
        total = aggregate(loss, self.mask, mode, self.denominators)
        close(total, self.expected["policy_loss"][AGGREGATION_KEYS[mode]])

    @pytest.mark.parametrize("mode", AGGREGATIONS)
    def test_total_loss_with_kl(self, mode: Any) -> None:
        batch = loss_batch(self.old, self.advantages, self.mask, self.ref)
        output = GRPO(kl_coef=self.params["beta"], aggregation=mode).loss(self.logp, batch, self.denominators)
        close(output.loss, self.expected["total_loss_beta0.04"][AGGREGATION_KEYS[mode]])

    def test_clip_fraction(self) -> None:
        batch = loss_batch(self.old, self.advantages, self.mask)
        sums = GRPO().loss(self.logp, batch, self.denominators).sums
        close(sums["loss/clip_fraction"] / self.denominators.tokens, self.expected["clip_frac_tokens"])


@pytest.mark.parametrize("row", CASES["clip_case_table"]["expected"]["rows"], ids=lambda r: f"{r['A']}x{r['ratio']}")
class TestClipCaseTable:
    bounds: dict[str, float] = {"clip_ratio_low": 0.2, "clip_ratio_high": 0.28}  # noqa: RUF012

    def test_loss(self, row: dict[str, Any]) -> None:
        one = torch.ones(1, 1, dtype=torch.bool)
        loss = clipped_surrogate(
            float64([[row["ratio"]]]).log(), float64([[0.0]]), float64([[row["A"]]]), one, **self.bounds
        )
        close(loss, [[row["loss"]]])

    def test_gradient_flows_where_the_clip_fraction_does_not_count(self, row: dict[str, Any]) -> None:
        one = torch.ones(1, 1, dtype=torch.bool)
        logp = float64([[row["ratio"]]]).log().requires_grad_()
        advantages = float64([[row["A"]]])
        clipped_surrogate(logp, float64([[0.0]]), advantages, one, **self.bounds).sum().backward()  # type: ignore[no-untyped-call]
        assert logp.grad is not None
        assert bool(logp.grad != 0) == row["grad_flows"]
        clipped = clip_fraction(logp.detach().exp(), advantages, one, **self.bounds)
        assert bool(clipped == 0) == row["grad_flows"]


class TestKlEstimators:
    case = CASES["kl_estimators"]
    ref = float64(case["inputs"]["ref_logp"])
    mask = float64(case["inputs"]["mask"]).bool()

    def test_k3(self) -> None:
        close(kl_k3(float64(self.case["inputs"]["logp"]), self.ref, self.mask), self.case["expected"]["k3"])

    def test_k3_masked_mean(self) -> None:
        kl = kl_k3(float64(self.case["inputs"]["logp"]), self.ref, self.mask)
        close(kl.sum() / self.mask.sum(), self.case["expected"]["masked_mean"]["k3"])

    def test_k3_gradient(self) -> None:
        logp = float64(self.case["inputs"]["logp"]).requires_grad_()
        kl_k3(logp, self.ref, self.mask).sum().backward()  # type: ignore[no-untyped-call]
        assert logp.grad is not None
        close(logp.grad, self.case["expected"]["grad_wrt_logp"]["k3"])


@pytest.mark.parametrize(
    ("name", "scale", "atol"),
    [("gigpo_mean_norm_traj_stats", False, EXACT), ("gigpo_mean_std_norm_traj_stats", True, SUMS)],
)
class TestGiGPO:
    @staticmethod
    def advantages(name: str, scale: bool, step_weight: float) -> Tensor:
        """(rows,) in the file's order."""
        case = CASES[name]
        tasks: dict[str, dict[str, list[tuple[str, float]]]] = {}
        for task, episode, _, anchor, reward, _ in case["inputs"]["rows"]:
            tasks.setdefault(task, {}).setdefault(episode, []).append((anchor, reward))
        algorithm = GiGPO(scale_by_std=scale, gamma=case["params"]["gamma"], step_weight=step_weight)
        groups = [Group(tuple(trajectory(*steps) for steps in episodes.values())) for episodes in tasks.values()]
        return torch.cat([a for group in groups for a in algorithm.advantages(group)])

    def test_total(self, name: str, scale: bool, atol: float) -> None:
        close(self.advantages(name, scale, 1.0), CASES[name]["expected"]["A_total"], atol)

    def test_episode_part(self, name: str, scale: bool, atol: float) -> None:
        close(self.advantages(name, scale, 0.0), CASES[name]["expected"]["A_episode"], atol)

    def test_step_part(self, name: str, scale: bool, atol: float) -> None:
        step = self.advantages(name, scale, 1.0) - self.advantages(name, scale, 0.0)
        close(step, CASES[name]["expected"]["A_step"], atol)
