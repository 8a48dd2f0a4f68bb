"""Speed beside other libraries, in paired rounds of one run."""
