"""What a relay remembers: one port (port.py) and two stores that keep its promises.

Not here: who may deposit and collect, and over which session (core, edge).
"""
