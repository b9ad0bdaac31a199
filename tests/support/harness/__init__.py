"""Driving real targets and a real leaktrace from tests: compile, rendezvous, trace, read reports.

Nothing here sleeps or measures time. Both sides print when they are ready. Every wait has a
deadline far beyond what a slow machine needs, to end tests that hang.
"""
