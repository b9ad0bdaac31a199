"""Driving real targets and a real leaktrace from tests: compile, rendezvous, trace, read reports.

Nothing here sleeps or measures time. Both sides say when they are ready; every wait has a deadline
far beyond what a slow machine needs, and only ends a test that hangs.
"""
