"""The Hydra configuration tree, found through ``pkg://agentgrpo.conf``."""
