"""Worked cases in float64 from papers and released code; see ``goldens/algorithms.json`` for their sources."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import default_algorithm, loss_batch, trajectory
from torch import Tensor

from agentgrpo import corrections, filters
from agentgrpo.advantages import gae, standardize, standardize_groups, whiten
from agentgrpo.algorithms.gigpo import GiGPO, similar
from agentgrpo.algorithms.graph_gpo import GraphGPO, _distances, _edges
from agentgrpo.algorithms.grpo import GRPO
from agentgrpo.algorithms.guided import Guided
from agentgrpo.algorithms.hgpo import HGPO
from agentgrpo.algorithms.mt_grpo import MTGRPO
from agentgrpo.algorithms.ngrpo import NGRPO
from agentgrpo.columns import states
from agentgrpo.losses import (
    AGGREGATIONS,
    KL_ESTIMATORS,
    aggregate,
    clip_fraction,
    clipped_surrogate,
    clipped_weight_surrogate,
    kl,
    masked_ratio,
    sequence_ratio,
    soft_gate_surrogate,
)
from agentgrpo.packing import pack, sequences
from agentgrpo.rewards.length import soft_overlong
from agentgrpo.types import Batch, Credit, Denominators, Group, Step, Trajectory

CASES: dict[str, Any] = json.loads((Path(__file__).parent / "goldens" / "algorithms.json").read_text())["cases"]
EXACT, SUMS = 1e-9, 1e-7  # the file's tolerances: the second where eps enters sums

# Ours -> the file's. `seq-mean-token-sum-norm` is the sum over (B * L), as in TRL; the file keeps verl's (L only)
# under the same name.
AGGREGATION_KEYS = {mode: mode for mode in AGGREGATIONS} | {"seq-mean-token-sum-norm": "dr_grpo_trl"}


def test_every_case_is_tested() -> None:
    text = Path(__file__).read_text()
    assert [name for name in CASES if f'"{name}"' not in text] == []


def float64(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(actual: Tensor, expected: Any, atol: float = EXACT) -> None:
    torch.testing.assert_close(actual.double(), float64(expected), atol=atol, rtol=0)


def one_step(rewards: list[float], **group: Any) -> Group:
    return Group(tuple(trajectory(("start", reward)) for reward in rewards), **group)


def outcome(rewards: list[float], **options: Any) -> Tensor:
    """(G,) advantages of one-step episodes."""
    return torch.cat(GRPO(**options).advantages(one_step(rewards)))


def spent(rows: list[list[Any]]) -> dict[str, dict[str, list[tuple[str, float]]]]:
    """Rows of (task, trajectory, step, anchor, reward, valid) by task and trajectory."""
    tasks: dict[str, dict[str, list[tuple[str, float]]]] = {}
    for task, episode, _, anchor, reward, _ in rows:
        tasks.setdefault(task, {}).setdefault(episode, []).append((anchor, reward))
    return tasks


def groups_of(rows: list[list[Any]]) -> list[Group]:
    return [
        Group(tuple(trajectory(*steps, success=steps[-1][1] > 0) for steps in episodes.values()))
        for episodes in spent(rows).values()
    ]


# --- GRPO -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("adv_ddof1_eps1e-6 (verl, verl-agent, RAGEN, slime)", {}),
        ("adv_dr_grpo_no_std", {"scale": "none"}),
    ],
)
def test_grpo_outcome(key: str, options: dict[str, Any]) -> None:
    case = CASES["grpo_outcome"]
    close(outcome(case["inputs"]["rewards"], **options), case["expected"][key])


def test_dr_grpo_outcome() -> None:
    case = CASES["grpo_outcome"]
    found = default_algorithm("dr_grpo").advantages(one_step(case["inputs"]["rewards"]))
    close(torch.cat(found), case["expected"]["adv_dr_grpo_no_std"])


@pytest.mark.parametrize("eps", [1e-4, 1e-6, 1e-8, 1e-9])
def test_standardize_with_other_eps(eps: float) -> None:
    case = CASES["grpo_outcome"]
    digits = f"eps1e-{-round(torch.tensor(eps).log10().item())}"
    expected = next(value for key, value in case["expected"].items() if key.startswith(f"adv_ddof1_{digits} "))
    close(standardize(float64(case["inputs"]["rewards"]), eps=eps), expected)


def test_standardize_with_the_population_std() -> None:
    case = CASES["grpo_outcome"]
    found = standardize(float64(case["inputs"]["rewards"]), eps=0.0, correction=0)
    close(found, case["expected"]["adv_ddof0_eps0 (paper formula read as population std)"])


@pytest.mark.parametrize(("reward", "key"), [(0.0, "adv"), (1.0, "adv_all_ones")])
def test_grpo_zero_variance_group(reward: float, key: str) -> None:
    assert outcome([reward] * 4).tolist() == CASES["grpo_zero_variance_group"]["expected"][key]


def test_grpo_singleton_group() -> None:
    case = CASES["grpo_singleton_group"]
    assert outcome(case["inputs"]["rewards"]).tolist() == case["expected"]["recommended"]


@pytest.mark.parametrize("correction", [0, 1])
def test_grpo_process_supervision(correction: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["grpo_process_supervision"]
    inputs, expected = case["inputs"], case["expected"][f"token_adv_ddof{correction}_eps0"]
    monkeypatch.setattr("agentgrpo.algorithms.grpo.standardize_groups", _without_eps(correction))
    members = []
    for rewards, ends in zip(inputs["step_rewards"], inputs["step_end_token_index"], strict=True):
        counts = [end - start for start, end in zip([-1, *ends], ends, strict=False)]
        steps = [Step("", r, action_ids=(2,) * n, logprobs=(0.0,) * n) for r, n in zip(rewards, counts, strict=True)]
        members.append(Trajectory(tuple(steps)))
    (found,) = GRPO(supervision="process").credit([Group(tuple(members))])
    for credit, row in zip(found, expected, strict=True):
        close(credit.advantages, row)


def _without_eps(correction: int) -> Any:
    return lambda keys, values, scale: standardize_groups(keys, values, scale=scale, eps=0.0, correction=correction)


class TestGrpoLossClipKl:
    case = CASES["grpo_loss_clip_kl"]
    inputs, params, expected = case["inputs"], case["params"], case["expected"]
    logp, old, ref = float64(inputs["logp"]), float64(inputs["old_logp"]), float64(inputs["ref_logp"])
    mask = float64(inputs["mask"]).bool()
    advantages = float64(inputs["adv"])[:, None]
    denominators = Denominators(sequences=2, tokens=5, max_length=params["norm_const"])

    def ratio(self) -> Tensor:
        return masked_ratio(self.logp, self.old, self.mask)

    def batch(self, ref: Tensor | None = None) -> Batch:
        return loss_batch(self.old, self.advantages, self.mask, ref)

    def test_ratio(self) -> None:
        close(torch.where(self.mask, self.ratio(), 0.0), self.expected["ratio"])

    def test_k3(self) -> None:
        close(kl(self.logp, self.ref, self.mask), self.expected["k3"])

    def test_per_token_loss(self) -> None:
        close(clipped_surrogate(self.ratio(), self.advantages, self.mask), self.expected["per_token_policy_loss"])

    @pytest.mark.parametrize("mode", AGGREGATIONS)
    def test_policy_loss(self, mode: Any) -> None:
        loss = clipped_surrogate(self.ratio(), self.advantages, self.mask)
        total = aggregate(loss, self.mask, mode, self.denominators)
        close(total, self.expected["policy_loss"][AGGREGATION_KEYS[mode]])

    @pytest.mark.parametrize("mode", AGGREGATIONS)
    def test_total_loss_with_kl(self, mode: Any) -> None:
        algorithm = GRPO(kl_coef=self.params["beta"], aggregation=mode)
        output = algorithm.loss(self.logp, self.batch(self.ref), self.denominators)
        close(output.loss, self.expected["total_loss_beta0.04"][AGGREGATION_KEYS[mode]])

    def test_clip_fraction(self) -> None:
        sums = GRPO().loss(self.logp, self.batch(), self.denominators).sums
        close(sums["loss/clip_fraction"] / self.denominators.tokens, self.expected["clip_frac_tokens"])

    def test_dapo(self) -> None:
        expected = CASES["dapo_clip_higher"]["expected"]
        algorithm = default_algorithm("dapo")
        token_loss = algorithm.surrogate(self.logp, self.ratio(), self.batch())
        close(token_loss, expected["per_token_policy_loss"])
        close(algorithm.loss(self.logp, self.batch(), self.denominators).loss, expected["token-mean"])

    def test_gspo(self) -> None:
        expected = CASES["gspo"]["expected"]
        ratio = sequence_ratio(self.logp, self.old, self.mask)
        close(ratio[:, 0], expected["seq_ratio"])
        bounds = {"clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4}
        close(clipped_surrogate(ratio, self.advantages, self.mask, **bounds)[:, 0], expected["per_seq_loss"])
        close(default_algorithm("gspo").loss(self.logp, self.batch(), self.denominators).loss, expected["loss"])

    def test_cispo(self) -> None:
        expected = CASES["cispo"]["expected"]
        logp = self.logp.clone().requires_grad_()
        algorithm = default_algorithm("cispo")
        loss = algorithm.loss(logp, self.batch(), self.denominators).loss
        (gradient,) = torch.autograd.grad(loss, logp)
        close(loss.detach(), expected["verl_token_mean_loss"])
        close(gradient, expected["grad_wrt_logp_verl"])
        # Without the averaging, a token's gradient is -weight * A.
        close(-gradient * self.denominators.tokens / self.advantages, expected["verl_weight"])

    def test_cispo_with_an_absolute_cap(self) -> None:
        loss = clipped_weight_surrogate(
            self.logp, self.ratio(), self.advantages, self.mask, clip_ratio_low=1.0, clip_ratio_high=4.0
        )
        total = aggregate(loss, self.mask, "token-mean", self.denominators)
        close(total, CASES["cispo"]["expected"]["trl_token_mean_loss"])

    def test_soft_gate(self) -> None:
        expected = CASES["sapo_soft_gate_qwen"]["expected"]
        loss = soft_gate_surrogate(self.ratio(), self.advantages, self.mask)
        close(torch.where(self.mask, -loss / self.advantages, 0.0), expected["gate"])
        total = default_algorithm("soft_gate").loss(self.logp, self.batch(), self.denominators).loss
        close(total, expected["loss_seq_mean_token_mean"])


@pytest.mark.parametrize("row", CASES["clip_case_table"]["expected"]["rows"], ids=lambda r: f"{r['A']}x{r['ratio']}")
@pytest.mark.parametrize("dual_clip", [None, 3.0])
class TestClipCaseTable:
    bounds: dict[str, float] = {"clip_ratio_low": 0.2, "clip_ratio_high": 0.28}  # noqa: RUF012

    def test_loss(self, row: dict[str, Any], dual_clip: float | None) -> None:
        one = torch.ones(1, 1, dtype=torch.bool)
        loss = clipped_surrogate(
            float64([[row["ratio"]]]), float64([[row["A"]]]), one, dual_clip=dual_clip, **self.bounds
        )
        close(loss, [[row["loss" if dual_clip is None else "loss_dual_clip_c3"]]])

    def test_gradient(self, row: dict[str, Any], dual_clip: float | None) -> None:
        one = torch.ones(1, 1, dtype=torch.bool)
        ratio = float64([[row["ratio"]]]).requires_grad_()
        advantages = float64([[row["A"]]])
        clipped_surrogate(ratio, advantages, one, dual_clip=dual_clip, **self.bounds).sum().backward()  # type: ignore[no-untyped-call]
        assert ratio.grad is not None
        assert bool(ratio.grad != 0) == row["grad_flows" if dual_clip is None else "grad_flows_dual"]
        if dual_clip is None:
            clipped = clip_fraction(ratio.detach(), advantages, one, **self.bounds)
            assert bool(clipped == 0) == row["grad_flows"]


@pytest.mark.parametrize("estimator", KL_ESTIMATORS)
class TestKlEstimators:
    case = CASES["kl_estimators"]
    logp, ref = float64(case["inputs"]["logp"]), float64(case["inputs"]["ref_logp"])
    mask = float64(case["inputs"]["mask"]).bool()

    def test_values(self, estimator: Any) -> None:
        close(kl(self.logp, self.ref, self.mask, estimator), self.case["expected"][estimator])

    def test_masked_mean(self, estimator: Any) -> None:
        total = kl(self.logp, self.ref, self.mask, estimator).sum() / self.mask.sum()
        close(total, self.case["expected"]["masked_mean"][estimator])

    def test_gradient(self, estimator: Any) -> None:
        logp = self.logp.clone().requires_grad_()
        kl(logp, self.ref, self.mask, estimator).sum().backward()  # type: ignore[no-untyped-call]
        assert logp.grad is not None
        close(logp.grad, self.case["expected"]["grad_wrt_logp"][estimator])


# --- cheap variants ---------------------------------------------------------------------------------------------------


def test_rloo() -> None:
    case = CASES["rloo"]
    found = default_algorithm("rloo").advantages(one_step(case["inputs"]["rewards"]))
    close(torch.cat(found), case["expected"]["adv"])


@pytest.mark.parametrize(("baseline", "key"), [("none", "plain_per_seq_value"), ("group", "baseline_per_seq_value")])
def test_reinforce_pp(baseline: str, key: str) -> None:
    case = CASES["reinforce_pp"]
    inputs = case["inputs"]
    groups: dict[int, list[Trajectory]] = {}
    for reward, length, group in zip(inputs["rewards"], inputs["lengths"], inputs["group"], strict=True):
        groups.setdefault(group, []).append(trajectory(("s", float(reward)), tokens=length))
    algorithm = default_algorithm("reinforce_pp", baseline=baseline)
    found = algorithm.credit([Group(tuple(members)) for members in groups.values()])
    values = [credit.advantages for group in found for credit in group]
    assert all(len(set(value.tolist())) == 1 for value in values)
    close(torch.stack([value[0] for value in values]), case["expected"][key], SUMS)


@pytest.mark.parametrize("row", CASES["dapo_soft_overlong"]["expected"]["rows"], ids=lambda r: str(r["len"]))
def test_dapo_soft_overlong(row: dict[str, Any]) -> None:
    params = CASES["dapo_soft_overlong"]["params"]
    assert soft_overlong(row["len"], params["L_max"], params["L_cache"]) == pytest.approx(row["penalty"], abs=EXACT)


def test_dapo_soft_overlong_example_of_trl() -> None:
    example = CASES["dapo_soft_overlong"]["expected"]["trl_docstring_example"]
    found = soft_overlong(example["len"], example["L_max"], example["L_cache"])
    assert found == pytest.approx(example["penalty"], abs=EXACT)


def test_dapo_dynamic_sampling() -> None:
    case = CASES["dapo_dynamic_sampling"]
    groups = [one_step(rewards, max_return=1.0) for rewards in case["inputs"]["groups"]]
    assert default_algorithm("dapo").keep(groups) == case["expected"]["keep"]
    found = default_algorithm("ngrpo").keep(groups)
    for mine, expected in zip(found, case["expected"]["ngrpo_filter_all_correct_keep"], strict=True):
        assert expected is None or mine == expected


# --- NGRPO ------------------------------------------------------------------------------------------------------------


def ngrpo(rewards: list[float], params: dict[str, Any]) -> Tensor:
    algorithm = NGRPO(num_virtual=params["n_virtual"])
    return torch.cat(algorithm.advantages(one_step(rewards, max_return=params["r_max"])))


def test_ngrpo_all_wrong() -> None:
    case = CASES["ngrpo_all_wrong"]
    found = ngrpo(case["inputs"]["rewards"], case["params"])
    close(found, case["expected"]["code (ddof1, eps1e-6)"]["adv"])
    assert outcome(case["inputs"]["rewards"]).tolist() == case["expected"]["grpo_would_give"]
    close(found, [-1 / math.sqrt(len(found) + 1)] * len(found), atol=2e-6)


def test_ngrpo_one_correct() -> None:
    case = CASES["ngrpo_one_correct"]
    close(ngrpo(case["inputs"]["rewards"], case["params"]), case["expected"]["code (ddof1, eps1e-6)"]["adv"])
    close(outcome(case["inputs"]["rewards"]), case["expected"]["plain_grpo_ddof1"])


@pytest.mark.parametrize("row", CASES["ngrpo_asymmetric_clip"]["expected"]["rows"], ids=str)
def test_ngrpo_asymmetric_clip(row: dict[str, float]) -> None:
    one = torch.ones(1, 1, dtype=torch.bool)
    batch = loss_batch(float64([[0.0]]), float64([[row["A"]]]), one)
    loss = default_algorithm("ngrpo").surrogate(float64([[0.0]]), float64([[row["ratio"]]]), batch)
    close(loss, [[row["loss"]]])


# --- step groups ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "scale", "episode_stats", "atol"),
    [
        ("gigpo_mean_norm_traj_stats", "none", "trajectory", EXACT),
        ("gigpo_mean_norm_step_stats", "none", "step", EXACT),
        ("gigpo_mean_std_norm_traj_stats", "group", "trajectory", SUMS),
    ],
)
class TestGiGPO:
    @staticmethod
    def advantages(name: str, scale: Any, episode_stats: Any, step_weight: float) -> Tensor:
        """(rows,) in the file's order."""
        case = CASES[name]
        algorithm = GiGPO(
            scale=scale, episode_stats=episode_stats, gamma=case["params"]["gamma"], step_weight=step_weight
        )
        return torch.cat([a for group in groups_of(case["inputs"]["rows"]) for a in algorithm.advantages(group)])

    def test_total(self, name: str, scale: str, episode_stats: str, atol: float) -> None:
        close(self.advantages(name, scale, episode_stats, 1.0), CASES[name]["expected"]["A_total"], atol)

    def test_episode_part(self, name: str, scale: str, episode_stats: str, atol: float) -> None:
        close(self.advantages(name, scale, episode_stats, 0.0), CASES[name]["expected"]["A_episode"], atol)

    def test_step_part(self, name: str, scale: str, episode_stats: str, atol: float) -> None:
        step = self.advantages(name, scale, episode_stats, 1.0) - self.advantages(name, scale, episode_stats, 0.0)
        close(step, CASES[name]["expected"]["A_step"], atol)


@pytest.mark.parametrize(
    ("threshold", "key"), [(None, "labels_exact"), (0.95, "labels_0.95"), (0.9, "labels_0.9"), (0.99, "labels_0.99")]
)
def test_gigpo_similarity_grouping(threshold: float | None, key: str) -> None:
    case = CASES["gigpo_similarity_grouping"]
    states = case["inputs"]["observations"]
    found = states if threshold is None else similar(states, threshold)
    assert [list(dict.fromkeys(found)).index(state) for state in found] == case["expected"][key]


def test_hgpo_mean_norm() -> None:
    case = CASES["hgpo_mean_norm_H2"]
    params = case["params"]
    algorithm = HGPO(
        history=params["history_length"], gamma=params["gamma"], alpha=params["length_weight_alpha"], scale="none"
    )
    found = torch.cat([a for group in groups_of(case["inputs"]["rows"]) for a in algorithm.advantages(group)])
    close(found, case["expected"]["A"], SUMS)


class TestGraphGPO:
    case = CASES["graphgpo_sketch"]
    (group,) = groups_of(case["inputs"]["rows"])

    def test_distances(self) -> None:
        state, after, goal = _edges([self.group])
        names = dict(zip(state.tolist(), states(self.group), strict=True)) | {goal: "GOAL"}
        distances = _distances(state, after, goal)
        found = {names[place]: d for place, d in enumerate(distances) if d >= 0}
        assert found == self.case["expected"]["distance_to_goal"]

    def test_step_advantages(self) -> None:
        params = self.case["params"]
        algorithm = GraphGPO(gamma=params["gamma"], goal_reward=params["reward"], episode_weight=0.0)
        close(torch.cat(algorithm.advantages(self.group)), self.case["expected"]["A_step"], SUMS)


# --- guided -----------------------------------------------------------------------------------------------------------


def test_guided_length_on_the_papers_schedule() -> None:
    case = CASES["g2rpoa_paper_schedule_T2_every_step"]
    params = case["params"]
    algorithm = Guided(
        initial_length=params["l0"], min_length=params["l_min"], max_length=params["l_max"], window=params["T"]
    )
    state = algorithm.initial_state()
    for row in case["expected"]["trace"]:
        assert algorithm.guidance(state, 4)[0] == row["len_used"]
        state = algorithm.adapt(state, row["reward"])
        assert state["length"] == row["len_next"]


def test_guided_group_layout_and_mask() -> None:
    case = CASES["g2rpoa_group_layout_and_mask"]
    inputs, expected = case["inputs"], case["expected"]
    count, size = map(int, inputs["guided_fraction"].split("/"))
    algorithm = Guided(guided_share=count / size, initial_length=inputs["guidance_len"], min_length=1)
    lengths = algorithm.guidance(algorithm.initial_state(), size)
    assert [slot for slot, length in enumerate(lengths) if length] == expected["guided_slots"]
    lead, drawn = tuple(inputs["trace_tokens"][: lengths[0]]), tuple(inputs["completion_tokens"])
    for given, key in ((lead, None), ((), "unguided")):
        logprobs = (0.0,) * len(drawn)
        step = Step("", prompt_ids=(1,), action_ids=(*given, *drawn), num_guided=len(given), logprobs=logprobs)
        (item,) = sequences(Trajectory((step,)), Credit(torch.ones(len(drawn))))
        mask = [int(at in item.action_index) for at in range(1, len(item.token_ids))]
        stored = expected if key is None else expected[key]
        assert list(item.token_ids[1:]) == stored["stored_completion"]
        assert mask == (stored["loss_mask_reproduction_fix"] if key is None else stored["loss_mask"])


# --- critic -----------------------------------------------------------------------------------------------------------


def ppo(inputs: dict[str, Any], ends: list[int], rewards: list[float], **options: Any) -> Credit:
    """One trajectory whose turns end at the given token positions."""
    steps = []
    for start, end in zip([-1, *ends], ends, strict=False):
        values = tuple(inputs["values"][start + 1 : end + 1])
        ids = (2,) * len(values)
        steps.append(Step("", rewards[end], action_ids=ids, logprobs=(0.0,) * len(ids), values=values))
    ((credit,),) = default_algorithm("ppo", **options).credit([Group((Trajectory(tuple(steps)),))])
    return credit


def test_gae_token() -> None:
    case = CASES["gae_token"]
    inputs, params = case["inputs"], case["params"]
    close(float64(gae(inputs["rewards"], inputs["values"], params["gamma"], params["lam"])), case["expected"]["adv"])
    credit = ppo(inputs, [4], inputs["rewards"], lam=params["lam"], whiten_advantages=False)
    assert credit.returns is not None
    close(credit.advantages, case["expected"]["adv"])
    close(credit.returns, case["expected"]["returns"])


@pytest.mark.parametrize(("whitened", "key"), [(False, "adv_before_whiten"), (True, "adv_whitened")])
def test_gae_bilevel(whitened: bool, key: str) -> None:
    case = CASES["gae_bilevel_ragen_selftest"]
    inputs, params = case["inputs"], case["params"]
    credit = ppo(
        inputs,
        [4, 9],
        inputs["token_level_rewards"],
        level="bilevel",
        gamma=params["gamma"],
        lam=params["lam"],
        turn_gamma=params["high_level_gamma"],
        turn_lam=params["lam"],
        whiten_advantages=whitened,
    )
    close(credit.advantages, case["expected"][key], SUMS if whitened else EXACT)
    assert credit.returns is not None
    close(credit.returns, case["expected"]["returns"])


def test_whiten_is_what_reinforce_pp_does_to_tokens() -> None:
    case = CASES["gae_bilevel_ragen_selftest"]
    close(whiten(float64(case["expected"]["adv_before_whiten"])), case["expected"]["adv_whitened"], SUMS)


# --- turns, trees, filters, mismatch ----------------------------------------------------------------------------------


class TestMtGrpo:
    case = CASES["mt_grpo_two_turn"]
    turn, final = case["inputs"]["turn_rewards"], case["inputs"]["outcome_rewards"]

    def test_two_turns(self) -> None:
        group = Group(tuple(trajectory(("a", t), ("b", o)) for t, o in zip(self.turn, self.final, strict=True)))
        params = self.case["params"]
        found = MTGRPO(turn_weight=params["turn_advantage_coef"], eps=params["eps"]).advantages(group)
        close(torch.stack([a[0] for a in found]), self.case["expected"]["tokens_up_to_first_tool_result"])
        close(torch.stack([a[1] for a in found]), self.case["expected"]["tokens_after"])

    def test_combined_as_one_turn(self) -> None:
        total = [t + o for t, o in zip(self.turn, self.final, strict=True)]
        found = MTGRPO(eps=self.case["params"]["eps"]).advantages(one_step(total))
        close(torch.cat(found), self.case["expected"]["combined"])


def test_tree_grpo_code_result_is_standardisation_inside_each_tree() -> None:
    case = CASES["tree_grpo"]
    scores, trees = case["inputs"]["scores"], case["inputs"]["tree"]
    inter = standardize(float64(scores))
    close(inter, case["expected"]["inter_tree_adv"], 1e-6)
    intra: list[float] = []
    for name in dict.fromkeys(trees):
        rows = [i for i, tree in enumerate(trees) if tree == name]
        intra += standardize(inter[rows]).tolist()
    close(float64(intra), case["expected"]["code_result (re-normalised inside each tree)"], 1e-6)


@pytest.mark.parametrize(("rule", "share"), [("top_k", 0.25), ("top_p_linear", 0.9), ("top_p_linear", 0.5)])
def test_starpo_s_filter(rule: str, share: float) -> None:
    case = CASES["starpo_s_filter"]
    function = filters.top_k if rule == "top_k" else filters.top_p
    assert function(case["inputs"]["group_reward_std"], share) == case["expected"][f"{rule}_{share}"]


class TestMismatchCorrections:
    case = CASES["mismatch_corrections"]
    old, rollout = float64(case["inputs"]["train_logp(old)"]), float64(case["inputs"]["rollout_logp"])
    mask = float64(case["inputs"]["mask"]).bool()
    params, expected = case["params"], case["expected"]

    def ratio(self, level: Any) -> Tensor:
        return corrections.mismatch(self.old, self.rollout, self.mask, level)

    def test_token_ratio(self) -> None:
        close(self.ratio("token"), self.expected["token_ratio"])

    def test_token_truncated(self) -> None:
        weights = corrections.importance_weights(self.ratio("token"), "truncate", 0.0, self.params["C"])
        close(weights, self.expected["token_TIS_C2"])

    def test_sequence_ratio(self) -> None:
        close(self.ratio("sequence")[:, 0], self.expected["seq_ratio"])

    def test_sequence_truncated(self) -> None:
        weights = corrections.importance_weights(self.ratio("sequence"), "truncate", 0.0, self.params["C"])
        close(weights[:, 0], self.expected["seq_TIS_C2"])

    def test_token_masked(self) -> None:
        weights = corrections.importance_weights(self.ratio("token"), "mask", *self.params["icepop"])
        close(weights, self.expected["icepop_token_mask[0.5,5]"])

    def test_sequence_masked(self) -> None:
        weights = corrections.importance_weights(self.ratio("sequence"), "mask", 0.0, self.params["seq_mask"][1])
        close(weights[:, 0], self.expected["seq_MIS(trl sequence_mask,max 3)"])

    def test_geometric(self) -> None:
        ratio = self.ratio("geometric")
        close(ratio[:, 0], self.expected["geo_mean_ratio"])
        weights = corrections.importance_weights(ratio, "mask", *self.params["geo"])
        assert (weights[:, 0] != 0).tolist() == self.expected["geo_keep[0.99,1.001]"]

    @pytest.mark.parametrize(("estimator", "key"), [("k1", "kl_rollout_train_k1"), ("k3", "kl_k3")])
    def test_kl(self, estimator: Any, key: str) -> None:
        close(kl(self.rollout, self.old, self.mask, estimator).mean(), self.expected[key])


class TestSwarmPool:
    """What strangers send: groups of other peers, with their own completions and their own baseline."""

    case = CASES["gensyn_sapo_pool_filter"]
    groups = {entry["q"]: one_step(entry["r"]) for entry in case["inputs"]["swarm_pool"]}  # noqa: RUF012
    peers = {entry["q"]: entry["peer"] for entry in case["inputs"]["swarm_pool"]}  # noqa: RUF012

    def test_groups_without_signal_are_not_eligible(self) -> None:
        kept = filters.keep(list(self.groups.values()), "zero_variance", 1.0)
        found = [[self.peers[q], q] for q, stays in zip(self.groups, kept, strict=True) if stays]
        assert found == self.case["expected"]["eligible"]

    @pytest.mark.parametrize("question", ["q1", "q4", "q5"])
    def test_advantages(self, question: str) -> None:
        rewards = float64([t.episode_return for t in self.groups[question]])
        close(standardize(rewards, eps=1e-8), self.case["expected"]["advantages"][question], 1e-8)


def test_a_foreign_groups_ratio_is_one_at_first() -> None:
    case = CASES["gensyn_sapo_external_ratio"]
    local = case["inputs"]["external_completion_logp_under_local_policy"]
    # Old log-probabilities are recomputed under the receiver's own policy, whatever the sender's were.
    step = Step("", prompt_ids=(1,), action_ids=(2, 3, 4), logprobs=(-9.0, -9.0, -9.0), old_logprobs=tuple(local))
    (batch,) = pack(sequences(Trajectory((step,)), Credit(torch.ones(3))), 100)
    close(GRPO(old_logprobs="recompute").ratio(torch.tensor([local]), batch)[0], case["expected"]["ratio_first_epoch"])


# Two cases describe other systems, with nothing of ours to compare: their numbers are checked against each other, so
# that nobody builds on a wrong copy.


def test_published_swarm_figures_agree() -> None:
    expected = CASES["gensyn_sapo_results_table"]["expected"]
    rewards = expected["cumulative_reward"]
    assert rewards["4/4"] / rewards["8 local/0 external"] - 1 == pytest.approx(expected["gain_4_4_vs_8_0"], abs=EXACT)


def test_published_branch_probabilities_agree() -> None:
    case = CASES["arpo_branch_probability"]
    inputs, params = case["inputs"], case["params"]
    moved = float64(inputs["entropy_now"]) - inputs["entropy_init"]
    close(params["branch_probability"] + params["entropy_weight"] * moved, case["expected"]["P_branch"])
