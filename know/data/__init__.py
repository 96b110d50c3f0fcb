"""Data sets by name, where they come from, and the parts of them that an experiment sees."""
