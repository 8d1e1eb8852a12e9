"""Jobs on quantum machines: written down before they are sent, sent once, their results kept.

Runner(remote, Journal("jobs.db"), Budget(max_jobs=100), label="my run").run(batch)  ->  distributions
"""

from qpeft.jobs.budget import Budget
from qpeft.jobs.journal import Journal
from qpeft.jobs.queued import QueuedBackend
from qpeft.jobs.report import JobDetails, Total, export_csv, list_jobs, show_job, totals
from qpeft.jobs.resuming import (
    Decision,
    Forget,
    Later,
    Resumed,
    SendAgain,
    WasSent,
    forget,
    resume,
)
from qpeft.jobs.rows import Row, State, Tally
from qpeft.jobs.runner import Counts, Runner
from qpeft.jobs.session import Session, current_session, open_backend, use_session

__all__ = [
    "Budget",
    "Counts",
    "Decision",
    "Forget",
    "JobDetails",
    "Journal",
    "Later",
    "QueuedBackend",
    "Resumed",
    "Row",
    "Runner",
    "SendAgain",
    "Session",
    "State",
    "Tally",
    "Total",
    "WasSent",
    "current_session",
    "export_csv",
    "forget",
    "list_jobs",
    "open_backend",
    "resume",
    "show_job",
    "totals",
    "use_session",
]
