"""The former name of `dvis_cli.files.output_errors`."""

from dvis_cli.files import output_errors as output_errors
