"""`penstock-export lint REPO`: what a server would refuse or warn of."""

import argparse

from exporter.console import Console
from exporter.linting import ERROR, as_json, lint


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Show what is wrong. Returns 1 if a version would not be served, or, strictly, at all."""
    findings = lint(arguments.repository, key=arguments.key, timeout_s=arguments.timeout)
    errors = sum(finding.level == ERROR for finding in findings)
    lines = [str(finding) for finding in findings]
    lines.append(f"{errors} errors, {len(findings) - errors} warnings")
    console.result("\n".join(lines), {"errors": errors, "findings": as_json(findings)})
    return 1 if errors or (arguments.strict and findings) else 0
