"""Tasks: what the scripts do for each kind of model. One module per task, which registers itself."""

from tlt_prune.tasks.registry import all_tasks, register, registered, task_of
from tlt_prune.tasks.task import Examples, Measure, Task, TwinTraining

__all__ = ["Examples", "Measure", "Task", "TwinTraining", "all_tasks", "register", "registered", "task_of"]
