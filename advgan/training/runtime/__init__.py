"""Around a training loop: processes, an output directory, saved states, shutdown, logs."""
