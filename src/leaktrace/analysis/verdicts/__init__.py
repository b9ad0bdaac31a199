"""Verdicts on sites: whether they leak, as far as time can tell."""
