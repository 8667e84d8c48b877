"""Sampling with a transformers model and a prefix cache behind the stateless interface.

A prompt pays only for the tokens after the longest prefix that some slot of the cache holds; equal prompts are
computed once; a prefix common to the whole batch is computed once. Finished rows leave the batch at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from agentgrpo import policy
from agentgrpo.precision import PRECISIONS, converted
from agentgrpo.prefixes import beginnings, common_prefix, longest_prefixes
from agentgrpo.samplers.base import Completion, SamplerStats, SamplingParams
from agentgrpo.samplers.sampling import draw
from agentgrpo.samplers.slot_cache import SlotCache
from agentgrpo.samplers.stopping import StopStrings
from agentgrpo.seeding import uniforms
from agentgrpo.timing import phase
from agentgrpo.types import StopReason
from agentgrpo.weights import whole


def _rounded(columns: int) -> int:
    """A little more, at most a quarter: an episode that grows by the token is then copied a few times only."""
    step = 1 << max(columns.bit_length() - 3, 5)
    return -(-columns // step) * step


_PREFILL_TOKENS = 8192
"""Prompt tokens, padding included, in one forward pass."""
_SHARED_PREFIX = 16
"""Tokens from which on a prefix common to the batch gets a pass of its own."""


class TransformersSampler:
    """Continues prompts with a transformers causal LM.

    Args:
        model: the policy. In its own precision the very same module is used; in another, a converted copy.
        stop_ids: token ids that end a turn.
        precision: ``fp32`` or ``bf16``.
        cache_gb: memory for keys and values of prompts that may come back; slots in use are always kept.
        own_weights: a copy in any precision, for a model that learns meanwhile.
        stop_strings: text that ends a turn too.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        stop_ids: Sequence[int],
        *,
        precision: str = "fp32",
        cache_gb: float = 2.0,
        own_weights: bool = False,
        stop_strings: StopStrings | None = None,
    ) -> None:
        dtype = PRECISIONS[precision]
        self._model = converted(model, dtype) if own_weights or model.dtype != dtype else model
        self._stop_ids = frozenset(stop_ids)
        self._stop_strings = stop_strings
        self._cache = SlotCache(model.config, dtype, model.device)
        self._max_bytes = cache_gb * 1e9
        self._tokens: list[list[int]] = []  # per slot, the token ids that it holds
        self._used: list[int] = []  # per slot, when it was last used
        self._clock = 0
        self._active = 0  # slots that the call under way writes to: the first ones
        self.stats = SamplerStats()

    def sync(self, model: PreTrainedModel) -> None:
        """Takes over the model's weights and forgets every cached prefix."""
        if model is not self._model:
            with torch.no_grad():
                for mine, theirs in zip(self._model.parameters(), model.parameters(), strict=True):
                    mine.copy_(whole(theirs))
        self._forget()

    def rest(self) -> None:
        """Gives the cache's memory back."""
        self._forget()

    def _forget(self) -> None:
        self._cache.clear()
        self._tokens, self._used = [], []

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]) -> list[Completion]:
        """One completion per prompt, in order; see :class:`agentgrpo.samplers.base.Sampler`."""
        if not prompts:
            return []
        if any(not prompt for prompt in prompts):
            raise ValueError("A prompt needs at least one token.")
        requests = [list(prompt) for prompt in prompts]
        self.stats.prompt_tokens += sum(map(len, requests))
        self._active = len(requests)
        try:
            with phase("sampler"):
                return self._generate(requests, params)
        except BaseException:
            self._forget()  # slots may claim tokens that were never computed
            raise

    def _generate(self, requests: list[list[int]], params: Sequence[SamplingParams]) -> list[Completion]:
        slots, known = self._place(requests)
        order = sorted(range(len(requests)), key=slots.__getitem__)  # slot -> request
        logits = self._prefill([requests[i] for i in order], [known[i] for i in order])
        drawn = self._decode(logits, [params[i] for i in order])
        completions = dict(zip(order, drawn, strict=True))
        return [completions[i] for i in range(len(requests))]

    # --- slots --------------------------------------------------------------------------------------------------

    def _place(self, requests: list[list[int]]) -> tuple[list[int], list[int]]:
        """Brings each request's longest cached prefix into a slot of its own, the first ones of the cache.

        Returns:
            per request its slot, and how many of its tokens the slot already holds.
        """
        count = len(requests)
        best = longest_prefixes(self._tokens, requests)  # (slot, length) per request
        # At least the last token has to be computed: its output predicts the first new one.
        known = [min(length, len(r) - 1) for (_, length), r in zip(best, requests, strict=True)]
        owner: dict[int, int] = {}  # cached slot -> the one request that goes on in place
        for i in sorted(range(count), key=lambda i: -known[i]):
            if known[i] > 0:
                owner.setdefault(best[i][0], i)
        slots = [-1] * count
        for slot, i in owner.items():
            if slot < count:
                slots[i] = slot
        free = iter(sorted(set(range(count)) - set(slots)))
        slots = [next(free) if slot < 0 else slot for slot in slots]

        content: dict[int, int] = {slots[i]: best[i][0] for i in range(count) if known[i] > 0}
        kept = sorted(self._worth_keeping(owner, requests), key=lambda s: -self._used[s])
        columns = _rounded(max(self._cache.num_columns, max(map(len, requests)) + 1))
        kept = kept[: max(self._room(columns) - count, 0)]
        stay = {s for s in kept if count <= s < count + len(kept)}
        spots = iter(s for s in range(count, count + len(kept)) if s not in stay)
        content |= {s if s in stay else next(spots): s for s in kept}
        self._rearrange(content, count + len(kept))
        self._cache.resize(self._cache.num_slots, columns)
        self._clock += 1
        for i, slot in enumerate(slots):
            self._tokens[slot] = requests[i]
            self._used[slot] = self._clock
        return slots, known

    def _worth_keeping(self, owner: Mapping[int, int], requests: list[list[int]]) -> list[int]:
        """Slots that no request goes on in, and whose tokens stand nowhere else."""
        idle = [s for s in range(len(self._tokens)) if s not in owner]
        again = beginnings([self._tokens[s] for s in idle], requests)
        return [s for k, s in enumerate(idle) if k not in again]

    def _room(self, columns: int) -> int:
        """Slots of so many columns that fit into the memory limit."""
        return int(self._max_bytes / (self._cache.bytes_per_column * columns))

    def _rearrange(self, content: dict[int, int], num_slots: int) -> None:
        """Makes slot d hold what slot ``content[d]`` held; slots that are not named become empty."""
        cache = self._cache
        cache.resize(max(num_slots, cache.num_slots), cache.num_columns)
        moves = [(source, d) for d, source in content.items() if source != d]
        longest = max((len(self._tokens[s]) for s, _ in moves), default=0)
        cache.move([s for s, _ in moves], [d for _, d in moves], longest)
        cache.resize(num_slots, cache.num_columns)
        self._tokens = [self._tokens[content[d]] if d in content else [] for d in range(num_slots)]
        self._used = [self._used[content[d]] if d in content else 0 for d in range(num_slots)]

    def _widen(self, columns: int, active: int) -> None:
        """Makes room for longer prefixes; slots other than the first ``active`` go where memory is short."""
        if columns <= self._cache.num_columns:
            return
        columns = _rounded(columns)
        slots = min(self._cache.num_slots, max(active, self._room(columns)))
        self._cache.resize(slots, columns)
        self._tokens, self._used = self._tokens[:slots], self._used[:slots]

    # --- prompts --------------------------------------------------------------------------------------------------

    def _prefill(self, requests: list[list[int]], known: list[int]) -> Tensor:
        """(B, V) logits after each prompt; row i stands in slot i and holds its first ``known[i]`` tokens."""
        leaders: dict[tuple[int, ...], int] = {}
        leader_of = [leaders.setdefault(tuple(r), i) for i, r in enumerate(requests)]
        rows = sorted(set(leader_of))
        self._prefill_shared(requests, known, rows)
        states = dict(self._forward_in_chunks(rows, requests, known))
        followers = [i for i, leader in enumerate(leader_of) if leader != i]
        if followers:
            longest = max(len(requests[i]) for i in followers)
            self._cache.move([leader_of[i] for i in followers], followers, longest)
        return self._logits(torch.stack([states[leader] for leader in leader_of]))

    def _prefill_shared(self, requests: list[list[int]], known: list[int], rows: list[int]) -> None:
        """Computes a prefix that the rows without one share, once; updates ``known``."""
        fresh = [i for i in rows if known[i] < _SHARED_PREFIX]
        if len(fresh) < 2:
            return
        shared = min(common_prefix(requests[fresh[0]], requests[i]) for i in fresh[1:])
        shared = min(shared, min(len(requests[i]) for i in fresh) - 1)
        if shared < _SHARED_PREFIX:
            return
        first, others = fresh[0], fresh[1:]
        list(self._forward_in_chunks([first], {first: requests[first][:shared]}, known))
        self._cache.move([first] * len(others), others, shared)
        for i in fresh:
            known[i] = shared

    def _forward_in_chunks(
        self, rows: list[int], requests: list[list[int]] | dict[int, list[int]], known: list[int]
    ) -> list[tuple[int, Tensor]]:
        """Computes what is new of the given rows; (row, (D,) state of its last token) in ascending lengths."""
        out: list[tuple[int, Tensor]] = []
        rows = sorted(rows, key=lambda i: (len(requests[i]) - known[i], i))
        while rows:
            size = 1
            while size < len(rows) and (size + 1) * (len(requests[rows[size]]) - known[rows[size]]) <= _PREFILL_TOKENS:
                size += 1
            part, rows = sorted(rows[:size]), rows[size:]
            states = self._forward([requests[i][known[i] :] for i in part], part, [known[i] for i in part])
            out += [(i, states[k, len(requests[i]) - known[i] - 1]) for k, i in enumerate(part)]
        return out

    def _forward(self, new: list[list[int]], slots: list[int], start: list[int]) -> Tensor:
        """(B, Q, D) states of the new tokens of the given slots, right-padded."""
        width = max(map(len, new))
        self.stats.prefilled_tokens += sum(map(len, new))
        ids = torch.tensor([n + [0] * (width - len(n)) for n in new], device=self._model.device)
        columns = torch.tensor(start, device=ids.device)[:, None] + torch.arange(width, device=ids.device)  # (B, Q)
        self._widen(int(columns.max()) + 1, self._active)
        return self._pass(ids, slots, columns)

    def _pass(self, ids: Tensor, slots: list[int], columns: Tensor) -> Tensor:
        self._cache.select(slots, columns)
        end = int(columns.max()) + 1
        mask = torch.arange(end, device=ids.device) <= columns[:, None, :, None]  # (B, 1, Q, S)
        with phase("sampling"):
            return policy.hidden_states(self._model, ids, columns, mask, self._cache)

    def _logits(self, states: Tensor) -> Tensor:
        with phase("sampling"):
            return policy.logits(self._model, states)

    # --- new tokens -----------------------------------------------------------------------------------------------

    def _decode(self, logits: Tensor, params: list[SamplingParams]) -> list[Completion]:
        """Draws tokens for slots 0 .. B-1 until each has ended; returns completions by slot."""
        device = logits.device
        rows = list(range(len(params)))  # rows[k]: which completion slot k is writing
        ids: list[list[int]] = [[] for _ in params]
        logprobs: list[list[float]] = [[] for _ in params]
        reasons = [StopReason.LENGTH] * len(params)
        ended = [False] * len(params)
        keys = np.array([p.noise_key for p in params], dtype=np.uint64)
        temperature = torch.tensor([p.temperature for p in params], device=device)
        top_p = torch.tensor([p.top_p for p in params], device=device)
        for position in range(max(p.max_new_tokens for p in params)):
            noise = torch.from_numpy(uniforms(keys[rows], position)).to(device)
            with phase("sampling"):
                tokens, chosen = draw(logits, temperature[rows], top_p[rows], noise)
            for row, token, logprob in zip(rows, tokens.tolist(), chosen.tolist(), strict=True):
                if ended[row]:
                    continue
                ids[row].append(token)
                logprobs[row].append(logprob)
                if self._stops(ids[row]):
                    reasons[row] = StopReason.STOP
                ended[row] = reasons[row] is StopReason.STOP or len(ids[row]) == params[row].max_new_tokens
            going = [slot for slot, row in enumerate(rows) if not ended[row]]
            if not going:
                break
            if len(going) <= len(rows) / 2:  # moving slots costs more than a few idle rows
                tokens, rows = tokens[going], [rows[slot] for slot in going]
                self._bring_forward(going)
            columns = torch.tensor([[len(self._tokens[slot])] for slot in range(len(rows))], device=device)
            self._widen(int(columns.max()) + 1, self._active)
            states = self._pass(tokens[:, None], list(range(len(rows))), columns)
            for slot, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
                if not ended[row]:  # an idle row's token went past its own end, where the next one will overwrite it
                    self._tokens[slot].append(token)
            logits = self._logits(states[:, 0])
        self.stats.sampled_tokens += sum(map(len, ids))
        return [Completion(tuple(i), tuple(p), r) for i, p, r in zip(ids, logprobs, reasons, strict=True)]

    def _stops(self, ids: list[int]) -> bool:
        return ids[-1] in self._stop_ids or (self._stop_strings is not None and self._stop_strings.complete(ids))

    def _bring_forward(self, going: list[int]) -> None:
        """Swaps slots so that the ones still writing stand first, in the given order; the others stay cached."""
        if going == list(range(len(going))):
            return
        ended = iter(sorted(set(range(going[-1] + 1)) - set(going)))
        content = dict(enumerate(going)) | {d: next(ended) for d in range(len(going), going[-1] + 1)}
        content |= {d: d for d in range(going[-1] + 1, len(self._tokens))}
        self._rearrange(content, len(self._tokens))
