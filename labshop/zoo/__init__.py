"""Strategies and locks with a real bug each, found in the wild; the judge must catch every one.

Each is one short file. It names its origin, the property by which it is caught (`CAUGHT_BY`) and
the scenario that brings it to light (`SCENARIO`), and holds a class `Purchase`, which is a
strategy, or `Lock`, under which stage v1 sells. Do not copy from here.
"""
