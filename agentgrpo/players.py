"""Whoever answers observations, and how it is asked: in batches, or at any time."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from agentgrpo.episode import Episode
from agentgrpo.samplers.base import Completion, ContinuousSampler, Sampler, SamplingParams


class Player(Protocol):
    """Answers all observations that are ready at once: a policy, a script, a person."""

    def act(self, episodes: Sequence[Episode]) -> list[Completion]:
        """One completion per episode, in order."""


@runtime_checkable
class ContinuousPlayer(Protocol):
    """Takes episodes at any time, and answers each when it is ready."""

    @property
    def num_taken(self) -> int:
        """Episodes that have no answer yet."""

    def take(self, episodes: Sequence[Episode]) -> None:
        """Takes episodes that wait for an answer."""

    def answered(self) -> list[tuple[Episode, Completion]]:
        """Goes on with what was taken, and hands out what is ready: maybe nothing yet."""

    def abandon(self) -> None:
        """Forgets what was taken."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a sampler is asked for a turn."""

    prompt: Sequence[int]
    params: SamplingParams
    lead: tuple[int, ...] = ()
    """The prompt's last tokens, where they are the beginning of the answer that an expert gave."""

    def completion(self, drawn: Completion) -> Completion:
        """The whole answer."""
        return (
            replace(drawn, token_ids=(*self.lead, *drawn.token_ids), num_guided=len(self.lead)) if self.lead else drawn
        )


@dataclass(frozen=True)
class PolicyPlayer:
    """The policy behind a sampler."""

    sampler: Sampler
    params: SamplingParams
    """Of every turn of an episode that has none of its own; the noise key is filled in."""

    def given(self, episodes: Sequence[Episode]) -> dict[int, Completion]:
        """Turns that are not the policy's, by ``id`` of the episode."""
        return {}

    def ask(self, episode: Episode) -> Ask:
        """What the sampler is asked for the policy's turn."""
        params = self.params if episode.params is None else episode.params
        return Ask(episode.conversation.prompt, replace(params, noise_key=episode.noise_key))

    def act(self, episodes: Sequence[Episode]) -> list[Completion]:
        """One completion per episode, in order."""
        answers = self.given(episodes)
        rest = [e for e in episodes if id(e) not in answers]
        asks = [self.ask(e) for e in rest]
        drawn = self.sampler.generate([a.prompt for a in asks], [a.params for a in asks])
        answers |= {id(e): a.completion(d) for e, a, d in zip(rest, asks, drawn, strict=True)}
        return [answers[id(e)] for e in episodes]


class _AsReady:
    """A policy behind a continuous sampler: each turn is asked for as it comes, and handed out as it is written."""

    def __init__(self, player: PolicyPlayer, sampler: ContinuousSampler) -> None:
        self._player = player
        self._sampler = sampler
        self._given: list[tuple[Episode, Completion]] = []
        self._asked: dict[Hashable, tuple[Episode, Ask]] = {}

    @property
    def num_taken(self) -> int:
        return len(self._given) + len(self._asked)

    def take(self, episodes: Sequence[Episode]) -> None:
        given = self._player.given(episodes)
        for episode in episodes:
            if id(episode) in given:
                self._given.append((episode, given[id(episode)]))
                continue
            ask = self._player.ask(episode)
            self._asked[id(episode)] = episode, ask
            self._sampler.submit(id(episode), ask.prompt, ask.params)

    def answered(self) -> list[tuple[Episode, Completion]]:
        out, self._given = self._given, []
        for key, drawn in self._sampler.poll() if self._asked else ():
            episode, ask = self._asked.pop(key)
            out.append((episode, ask.completion(drawn)))
        return out

    def abandon(self) -> None:
        self._sampler.cancel(list(self._asked))
        self._given, self._asked = [], {}


class _InBatches:
    """A player that acts on whole batches: it answers everything that it has, at once."""

    def __init__(self, player: Player) -> None:
        self._player = player
        self._taken: list[Episode] = []

    @property
    def num_taken(self) -> int:
        return len(self._taken)

    def take(self, episodes: Sequence[Episode]) -> None:
        self._taken += episodes

    def answered(self) -> list[tuple[Episode, Completion]]:
        episodes, self._taken = self._taken, []
        return list(zip(episodes, self._player.act(episodes), strict=True))

    def abandon(self) -> None:
        self._taken = []


def continuous(player: Player | ContinuousPlayer) -> ContinuousPlayer:
    """Any player as one that is asked at any time; a policy writes continuously where its sampler does."""
    if isinstance(player, ContinuousPlayer):
        return player
    if isinstance(player, PolicyPlayer) and isinstance(player.sampler, ContinuousSampler):
        return _AsReady(player, player.sampler)
    return _InBatches(player)
