"""A training run as one web page that needs no network: ``write_report(path, RunReport(...))``."""

from src.run_report.page import write_report
from src.run_report.report import RunReport

__all__ = ["RunReport", "write_report"]
