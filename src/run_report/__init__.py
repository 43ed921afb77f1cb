"""A training run as one web page that needs no network: ``write_report(path, RunReport(...))``."""

from src.run_report.page import write_report
from src.run_report.report import Evaluated, RunReport

__all__ = ["Evaluated", "RunReport", "write_report"]
