"""The paper's idea: KNOWN, the other predictors, the controls, and retrodiction past Θ_0."""
