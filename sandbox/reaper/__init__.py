"""Supervisor of one command: a stand-alone program between us and the command, which always ends the whole tree.

Started before every exec and spawn with an environment of its own, with nothing imported but a little of the standard
library. ``supervise`` says how it is spoken to.
"""
