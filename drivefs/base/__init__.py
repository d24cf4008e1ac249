"""The ground floor: errors, value types, range algebra, configuration, logging, counters.

Imports nothing else of drivefs, and does no input or output beyond logging.
"""
