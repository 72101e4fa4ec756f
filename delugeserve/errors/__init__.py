"""The errors a user can meet, as one tree.

::

    DelugeServeError            the base: what is wrong and what to do about it
    ├── UsageError              exit 2: the user can fix it
    │   ├── UnknownNameError    a name is not in a registry; suggests the nearest
    │   ├── MissingExtraError   an optional dependency is not installed
    │   ├── DatasetError        images or labels cannot be read
    │   │   ├── ClassNameError        a class name is empty, has a line break or is not UTF-8
    │   │   └── UnreadableImageError  an image cannot be decoded
    │   ├── InvalidReferenceError  a path, name or address is not what a command takes
    │   ├── SubjectError        an artefact or a server does not hold the model that it should
    │   ├── CheckpointError     a checkpoint is missing, damaged or of another model
    │   ├── ModelNameError      a name cannot be that of a model in a repository
    │   ├── RepositoryError     the model repository cannot be read or written
    │   │   └── OtherClassesError  a model of that name has other classes
    │   ├── BusyFolderError     another process is training into a folder
    │   ├── ResumeError         what is to be resumed was started with other settings
    │   ├── OutputExistsError   an output exists, finished or not
    │   ├── BusyOutputError     another process is writing an output
    │   ├── OtherInputError     what an unfinished output was made from has changed
    │   ├── PlanError           a compiled plan is for another runtime or another GPU
    │   ├── MissingDeviceError  there is no GPU
    │   └── PortError           a port is taken
    └── Failure                 exit 1: the request was valid, but the work failed
        ├── UnfinishedError     an output is not finished, and can be resumed
        ├── TrainingError       training cannot continue
        │   ├── StoppedError    training was stopped by a signal
        │   └── LostProcessError  another process of the run ended
        ├── EvaluationError     a classifier's outputs cannot be evaluated
        ├── BudgetError         no rate, or no settings, keep a latency budget
        ├── NoAnswerError       no request of a load test was answered
        ├── BuildError          a runtime cannot build its artefact
        ├── ParityError         an exported artefact does not compute what the network computes
        └── ServerError         the inference server did not start, or died

Facts that a program may want are attributes; tests assert on the class and on those.
"""

from __future__ import annotations

from delugeserve.errors.artifacts import (
    BuildError,
    CheckpointError,
    InvalidReferenceError,
    MissingDeviceError,
    ModelNameError,
    OtherClassesError,
    ParityError,
    PlanError,
    RepositoryError,
    SubjectError,
)
from delugeserve.errors.base import (
    DelugeServeError,
    Failure,
    MissingExtraError,
    UnknownNameError,
    UsageError,
)
from delugeserve.errors.bulk import (
    BusyOutputError,
    OtherInputError,
    OutputExistsError,
    UnfinishedError,
)
from delugeserve.errors.data import ClassNameError, DatasetError, UnreadableImageError
from delugeserve.errors.serving import PortError, ServerError
from delugeserve.errors.text import list_some, nearest_name, nearest_path, reason_of
from delugeserve.errors.training import (
    BusyFolderError,
    EvaluationError,
    ResumeError,
    StoppedError,
    TrainingError,
)

__all__ = [
    "BuildError",
    "BusyFolderError",
    "BusyOutputError",
    "CheckpointError",
    "ClassNameError",
    "DatasetError",
    "DelugeServeError",
    "EvaluationError",
    "Failure",
    "InvalidReferenceError",
    "MissingDeviceError",
    "MissingExtraError",
    "ModelNameError",
    "OtherClassesError",
    "OtherInputError",
    "OutputExistsError",
    "ParityError",
    "PlanError",
    "PortError",
    "RepositoryError",
    "ResumeError",
    "ServerError",
    "StoppedError",
    "SubjectError",
    "TrainingError",
    "UnfinishedError",
    "UnknownNameError",
    "UnreadableImageError",
    "UsageError",
    "list_some",
    "nearest_name",
    "nearest_path",
    "reason_of",
]
