"""Owns the tables of options in README.md and docs/configuration.md; must not know which options there are."""

from pytest_megacpp.desk.config.declarations import Option, argument_of, options_of, variable_of


def configuration_table(cls: type) -> str:
    """The table of docs/configuration.md."""
    rows = (
        f"| `{_usage(name, one)}` | {_code(variable_of(name), one.has_variable)} | {_code(name, one.has_key)} "
        f"| {one.help}{one.more} |"
        for name, one in options_of(cls).items()
    )
    return "\n".join(("| option | variable | key | meaning |", "|---|---|---|---|", *rows, ""))


def readme_table(cls: type) -> str:
    """The table of README.md, one directory up."""
    rows = (
        f"| `{_usage(name, one)}` | {one.help}{one.more.replace('](', '](docs/')} |"
        for name, one in options_of(cls).items()
    )
    return "\n".join(("| option | meaning |", "|---|---|", *rows, ""))


def _usage(name: str, declared: Option) -> str:
    return f"{argument_of(name)} {declared.metavar or ''}".rstrip()


def _code(text: str, is_there: bool) -> str:
    return f"`{text}`" if is_there else "–"
