"""The bench: a fixed set of trajectories whose next point is known, on which any predictor can be scored.

``trajectories`` makes them, once; ``scoring`` scores what predictors and controls make of them; ``table`` says what came out.
``python -m know.bench`` is the stage, ``know bench`` the command. docs/bench.md explains both.
"""

import know.run.arithmetic  # noqa: F401 - before NumPy is loaded
