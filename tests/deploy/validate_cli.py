"""Calls `latency validate` as tests of several files need it."""

from typer.testing import CliRunner

from tvmfbnet.cli import latency
from tvmfbnet.errors import UserError


def validate(*arguments: object) -> str:
    """What `tvmfbnet latency` with these arguments prints; its UserError is raised as it is."""
    result = CliRunner().invoke(latency.app, [str(item) for item in arguments])
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout
