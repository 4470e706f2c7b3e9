"""Collecting rollouts: a Python loop for host environments, a scan for environments on the
device."""
