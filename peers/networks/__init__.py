"""Networks: built-in architectures, their output widths and their random initial weights."""
