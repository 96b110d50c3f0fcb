"""From tidy results to comparisons with intervals, one verdict rule, and claims."""
