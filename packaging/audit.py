"""Compare an environment with the advisories in advisories.csv: ``python audit.py SITE_PACKAGES``.

For where pip-audit cannot have its data, and a stopgap only: the table has the newest advisory of each
package that was known in November 2026, with the first version without it. An advisory without such a version
is accepted for the reason that the table gives. pip and setuptools are those of the environment, and are not
in the table. Needs the package packaging.
"""

import csv
import sys
from importlib import metadata
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import Version

TABLE = Path(__file__).with_name("advisories.csv")


def concerned(versions: dict[str, str], table: Path = TABLE) -> list[str]:
    """A line for each package that is older than its first fixed version.

    Args:
        versions: of packages, by their canonical names.
        table: of advisories.
    """
    with table.open(newline="", encoding="utf-8") as file:
        rows = {row["package"]: row for row in csv.DictReader(file)}
    return [
        f"{name} must be {row['fixed'] or 'fixed'} or newer ({row['advisory']}: {row['what']}), got {version}"
        for name, version in sorted(versions.items())
        if (row := rows.get(name)) and not row["accepted"]
        if not row["fixed"] or Version(version) < Version(row["fixed"])
    ]


def installed(folder: str) -> dict[str, str]:
    """Versions of the packages in a folder by their canonical names."""
    found = metadata.distributions(path=[folder])
    return {canonicalize_name(each.metadata["Name"]): each.version for each in found}


if __name__ == "__main__":
    versions = installed(sys.argv[1])
    if lines := concerned(versions):
        raise SystemExit("\n".join(lines))
    print(f"advisories.csv: none of {len(versions)} packages is concerned")
