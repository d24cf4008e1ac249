"""POSIX meaning on inodes and handles: no kernel, no HTTP. Imports ``jobs``, ``store`` and ``base``."""
