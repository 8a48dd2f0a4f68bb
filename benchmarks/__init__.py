"""Speed compared with other libraries, in paired rounds of one run."""
