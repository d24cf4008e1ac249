"""A Drive v3 server in its own process, reached by URL only. Nothing else in drivefs imports it."""
