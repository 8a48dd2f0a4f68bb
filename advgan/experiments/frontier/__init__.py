"""Success against time: our attacks and the baselines at every time budget."""
