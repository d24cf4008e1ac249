"""The network: HTTP transport, retries, credentials, typed Drive v3 calls. Imports ``base`` only."""
