"""Where jobs live: a project directory that survives anything; no Qt, no arrays."""

from relion_py.pipeline.errors import DamagedPipeline, LockedProject, PipelineError, RestorePlan
from relion_py.pipeline.graph import Graph, Node, Process, Status
from relion_py.pipeline.project import Project

__all__ = [
    "DamagedPipeline",
    "Graph",
    "LockedProject",
    "Node",
    "PipelineError",
    "Process",
    "Project",
    "RestorePlan",
    "Status",
]
