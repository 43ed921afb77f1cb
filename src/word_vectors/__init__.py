"""Word vectors for labels: the files, packages and encoders people have, and finding labels in them."""
