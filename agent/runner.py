"""Tool calls carried out for real, over one workspace. Importing this module imports smolagents."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from xar_agent.errors import PatchRefused
from xar_agent.tools.observation import Observation
from xar_agent.tools.toolbox import WorkspaceTool, make_tools
from xar_agent.tools.workspace import Workspace, allowed_part


class WorkspaceRunner:
    """The tools of one episode over its workspace."""

    def __init__(self, workspace: Workspace, start_tree: str) -> None:
        self.workspace = workspace
        self.tools: Sequence[WorkspaceTool] = make_tools(workspace, submits=workspace.submits)
        self._tree = start_tree

    def run(self, name: str, arguments: dict[str, Any]) -> Observation:
        """The result of a call whose arguments have been checked."""
        tool = next(tool for tool in self.tools if tool.name == name)
        return tool.observe(**arguments)

    def tree(self) -> str:
        """Hash of the repository as it is; the last one that could be taken while something too big lies in it."""
        with contextlib.suppress(PatchRefused):  # smoke_test and submit_run say so to the model
            self._tree = self.workspace.tree()
        return self._tree

    def diff(self) -> str:
        """What of the present tree a patch may hold."""
        return allowed_part(self.workspace.bench, self._tree).diff
