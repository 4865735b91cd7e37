"""What commands have in common: their exit codes, the release, and how options and --set become the keys of a job."""

from typing import Annotated, Any

import typer
import yaml

from schemas.errors import ConfigError

EXIT_CODES = """
Exit codes: 0 success; 2 wrong option or config; 65 unusable input data; 66 input not found; 69 `plan --preflight` found
that the release does not fit; 71 workers die again and again; 73 the output belongs to another run; 74 the store failed
(run again to resume); 75 another run works on this output now; 76 an artefact is not what its manifest says, or of
another format; 1 `verify`, `doctor` or `deploy check` found problems; 130 interrupted; 143 terminated.
"""

ReleaseArgument = Annotated[str, typer.Argument(help="Output of a release.", show_default=False)]


def overrides(options: dict[str, Any], assignments: list[str] | None) -> dict[str, Any]:
    """Collect what the command line sets of a job: options that were given, then every --set."""
    settings = {key: value for key, value in options.items() if value is not None}
    for assignment in assignments or []:
        key, separator, value = assignment.partition("=")
        if not separator:
            raise ConfigError(f"--set: expected key=value, found {assignment!r}")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {key}: not a YAML value: {value!r}") from error
    return settings
