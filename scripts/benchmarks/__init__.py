"""What ``scripts/bench.py`` runs: one module per side, each measurement in a process of its own."""
