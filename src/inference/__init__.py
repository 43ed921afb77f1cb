"""Tag images with a trained model."""
