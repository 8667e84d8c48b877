"""Built-in tasks and adapters. Importing this package registers them with gymnasium; none is loaded before use."""

import gymnasium as gym

ENV_IDS = {
    "agentgrpo/KeyMaze-v0": "agentgrpo.envs.key_maze:KeyMazeEnv",
    "agentgrpo/NumberGuess-v0": "agentgrpo.envs.number_guess:NumberGuessEnv",
    "agentgrpo/FrozenLake-v0": "agentgrpo.envs.frozen_lake:FrozenLakeEnv",
    "agentgrpo/Sokoban-v0": "agentgrpo.envs.sokoban:SokobanEnv",
    "agentgrpo/Hanoi-v0": "agentgrpo.envs.hanoi:HanoiEnv",
    "agentgrpo/Mastermind-v0": "agentgrpo.envs.mastermind:MastermindEnv",
    "agentgrpo/Household-v0": "agentgrpo.envs.household:HouseholdEnv",
    "agentgrpo/MiniShop-v0": "agentgrpo.envs.minishop:MiniShopEnv",
    "agentgrpo/Calculator-v0": "agentgrpo.envs.calculator:CalculatorEnv",
    "agentgrpo/SqlTools-v0": "agentgrpo.envs.sql_tools:SqlToolsEnv",
    "agentgrpo/BabyAI-v0": "agentgrpo.envs.babyai:BabyAIEnv",
    "agentgrpo/ToyText-v0": "agentgrpo.envs.toy_text:ToyTextEnv",
    "agentgrpo/TextArena-v0": "agentgrpo.envs.text_arena:TextArenaEnv",
    "agentgrpo/ReasoningGym-v0": "agentgrpo.envs.reasoning_gym_tasks:ReasoningGymEnv",
    "agentgrpo/TextWorld-v0": "agentgrpo.envs.text_world:TextWorldEnv",
    "agentgrpo/AlfWorld-v0": "agentgrpo.envs.alf_world:AlfWorldEnv",
    "agentgrpo/TextWorldExpress-v0": "agentgrpo.envs.text_world_express:TextWorldExpressEnv",
    "agentgrpo/ScienceWorld-v0": "agentgrpo.envs.science_world:ScienceWorldEnv",
    "agentgrpo/OpenEnv-v0": "agentgrpo.envs.open_env:OpenEnv",
}

# What has to be installed besides agentgrpo itself: pip install 'agentgrpo[EXTRA]'.
EXTRAS: dict[str, str] = {
    "agentgrpo/BabyAI-v0": "babyai",
    "agentgrpo/OpenEnv-v0": "openenv",
    "agentgrpo/TextArena-v0": "textarena",
    "agentgrpo/ReasoningGym-v0": "reasoning-gym",
    "agentgrpo/TextWorld-v0": "textworld",
    "agentgrpo/AlfWorld-v0": "alfworld",
    "agentgrpo/TextWorldExpress-v0": "textworld-express",
    "agentgrpo/ScienceWorld-v0": "scienceworld",
}

for _env_id, _entry_point in ENV_IDS.items():
    if _env_id not in gym.registry:
        # No max_episode_steps: a task counts its own turns. gymnasium's run-time checker costs a third of the speed;
        # `python -m agentgrpo check-env` runs the same checks once.
        gym.register(_env_id, entry_point=_entry_point, disable_env_checker=True)

__all__ = ["ENV_IDS", "EXTRAS"]
