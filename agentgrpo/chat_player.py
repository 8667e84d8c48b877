"""A model behind a server as a player of episodes: it is given whole conversations as messages, and answers in text.

The server applies the chat template. No token ids come back, so an answer's "tokens" are its bytes, and nothing of it
can be trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from agentgrpo.chat_server import LONGEST_WAIT, ChatServer, ServerError
from agentgrpo.config import TrainConfig
from agentgrpo.context import Conversation, Message, window_text
from agentgrpo.episode import Episode
from agentgrpo.rollout import RolloutRunner
from agentgrpo.samplers.base import Completion, SamplingParams
from agentgrpo.samplers.settings import OpenAiSettings
from agentgrpo.samplers.stopping import cut_text
from agentgrpo.types import StopReason
from agentgrpo.workers import Workers


class Bytes:
    """Text whose tokens are its bytes."""

    longest_token = 1

    def decode(self, token_ids: tuple[int, ...]) -> str:
        """The text of an answer."""
        return bytes(token_ids).decode()


class Unseen(Conversation):
    """A conversation whose token ids only the server knows: there are none here."""

    def __init__(self) -> None:
        self.prompt = []

    def observe(self, observation: str) -> tuple[tuple[int, ...], bool]:
        """Nothing is added to a prompt that is elsewhere."""
        return (), True

    def answer(self, action_ids: tuple[int, ...], action: str) -> None:
        """Nothing is kept: the episode has its steps."""


def messages_of(episode: Episode, instructions: str, kind: str, window_turns: int) -> list[Message]:
    """What the model is told before its next answer: the same turns that a local policy would be prompted with."""
    system: list[Message] = [{"role": "system", "content": instructions}] if instructions else []
    if kind == "window":
        observations = [*(step.observation for step in episode.steps), episode.observation]
        actions = [step.action for step in episode.steps]
        return [*system, {"role": "user", "content": window_text(observations, actions, window_turns)}]
    turns: list[Message] = []
    for step in episode.steps:
        turns.append({"role": "user", "content": step.observation})
        turns.append({"role": "assistant", "content": step.text})
    return [*system, *turns, {"role": "user", "content": episode.observation}]


class ChatPlayer:
    """Asks a server for many episodes at a time.

    Args:
        params: of every turn.
        messages: what is sent for an episode.
        stop: text that ends an answer.
        concurrency: requests at one time.
        patience: seconds after which a request counts as lost, its repetitions included.
    """

    def __init__(
        self,
        server: ChatServer,
        params: SamplingParams,
        messages: Callable[[Episode], list[Message]],
        *,
        stop: Sequence[str] = (),
        concurrency: int,
        patience: float,
    ) -> None:
        self._server = server
        self._params = params
        self._messages = messages
        self._stop = stop
        self._concurrency = concurrency
        self._patience = patience
        self._threads: Workers[Episode, str | ServerError] = Workers(concurrency)

    @property
    def num_taken(self) -> int:
        """Episodes that have no answer yet."""
        return self._threads.num_pending

    def take(self, episodes: Sequence[Episode]) -> None:
        """Sends what the episodes have to answer."""
        for episode in episodes:
            self._threads.submit(episode, partial(self._ask, self._messages(episode)), self._patience)

    def answered(self) -> list[tuple[Episode, Completion]]:
        """Waits for an answer.

        Raises:
            ServerError: a request failed for good.
        """
        out = []
        for episode, text in self._threads.finished(wait=True):
            if isinstance(text, ServerError):
                raise text
            if not isinstance(text, str):
                raise ServerError(f"A request to {self._server.name} failed: {text.error}")
            # Not left to the server: most would drop the string itself, and an action may need it.
            text = cut_text(text, self._stop)
            out.append((episode, Completion(tuple(text.encode(errors="replace")), (), StopReason.STOP)))
        return out

    def abandon(self) -> None:
        """Waits for nobody: threads end by themselves."""
        self._threads.close()
        self._threads = Workers(self._concurrency)

    def _ask(self, messages: list[Message]) -> str | ServerError:
        try:
            return self._server.complete(messages, self._params)
        except ServerError as error:
            return error


def chat_player(config: TrainConfig, settings: OpenAiSettings) -> tuple[ChatPlayer, str]:
    """The player that ``sampler=openai`` names, and its name in a sentence.

    Raises:
        ServerError: a setting is missing.
    """
    server = ChatServer(settings)
    instructions: Mapping[str, str] = {name: env.instructions for name, env in config.environments.items()}
    context = config.context

    def messages(episode: Episode) -> list[Message]:
        return messages_of(episode, instructions[episode.task.env], context.kind, context.window_turns)

    player = ChatPlayer(
        server,
        config.rollout.params(config.eval.temperature),
        messages,
        stop=config.rollout.stop,
        concurrency=settings.concurrency,
        patience=(settings.retries + 1) * (settings.timeout + LONGEST_WAIT),
    )
    return player, server.name


def chat_runner(config: TrainConfig) -> RolloutRunner:
    """Environments for episodes whose contexts a server keeps to itself."""
    return RolloutRunner(config.environments, config.rollout, lambda env: Unseen(), Bytes(), context_length=2**31)
