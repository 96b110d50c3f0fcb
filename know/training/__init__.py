"""One training loop: for Θ_0, forgetting, fine-tuning, and a user's own model."""
