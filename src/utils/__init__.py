"""Files, processes, signals and progress bars."""
