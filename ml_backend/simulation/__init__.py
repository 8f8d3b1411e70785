"""Replaying strategies on labelled data: what a person runs before trusting one."""
