"""The local disk: database, tree, content cache, outbox. Imports ``base`` only, and never waits for the network."""
