"""A quick comparison on the user's machine: rounds of flctl, by each executor, beside a loop written by hand."""
