"""Thresholds, probabilities and the bias towards seen labels."""
