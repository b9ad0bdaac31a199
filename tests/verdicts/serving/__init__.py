"""Servers under a steady load, and a leak that can be injected into them."""
