"""Multi-label metrics as pure functions of scores and targets."""
