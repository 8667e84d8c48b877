"""``doctor``: says in plain words what looks wrong in a run, from its metrics alone, and which setting to change."""
