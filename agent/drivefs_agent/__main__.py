"""``python -m drivefs_agent``: the command, also where its script is not on PATH."""

from drivefs_agent.cli import main

main(prog_name="drivefs-agent")
