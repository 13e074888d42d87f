"""The claims of the paper, and the verdict that the runs give on each."""
