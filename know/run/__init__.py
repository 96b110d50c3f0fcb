"""How work is run: the executor of independent runs, progress, notebooks as stages."""
