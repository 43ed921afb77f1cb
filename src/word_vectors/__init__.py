"""Word vectors for labels: files, packages and encoders, and the look-up of labels in them."""
