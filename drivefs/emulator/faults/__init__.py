"""Faults and time as data: what goes wrong, when, and how long everything takes. See docs/emulator.md."""
