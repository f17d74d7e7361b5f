"""Other releases of Sexton, made from this one: there is none yet to upgrade from."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

import sexton
from sexton.database.schema import LINE, MIGRATIONS

SOURCE = Path(sexton.__file__).parent
MIGRATION = '''"""What the next patch release adds: a column that may be left out, and a table."""

import sqlalchemy as sa
from alembic import op

revision = "next"
down_revision = "{head}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("run", sa.Column("release", sa.Text))
    op.create_table("release", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.Text))
'''
TABLES = """
run.append_column(Column("release", Text, default="{version}"))
release = Table("release", metadata, Column("id", Integer, primary_key=True), Column("name", Text))
"""


def next_patch(folder: Path) -> Path:
    """To be put into PYTHONPATH: the next patch release, whose every new run has its version in a column of its own."""
    version = neighbour(patch=+1)
    package = _copied(folder, version)
    (package / "database/migrations/versions/vnext.py").write_text(MIGRATION.format(head=_script().get_current_head()))
    with (package / "database/tables.py").open("a") as tables:
        tables.write(TABLES.format(version=version))
    return folder


def minor_before(folder: Path) -> Path:
    """To be put into PYTHONPATH: an older minor release, which does not know the newest migration."""
    script = _script()
    package = _copied(folder, "0.0.9")
    (package / "database/migrations/versions" / Path(script.get_revision("head").path).name).unlink()
    schema = package / "database/schema.py"
    schema.write_text(schema.read_text().replace(f'LINE = "{LINE}"', 'LINE = "0.0"'))
    return folder


def neighbour(*, patch: int) -> str:
    """The version so many patch releases from this one."""
    found = re.match(r"(\d+\.\d+)\.(\d+)", sexton.__version__)
    assert found is not None
    return f"{found[1]}.{int(found[2]) + patch}"


def _copied(folder: Path, version: str) -> Path:
    package = folder / "sexton"
    shutil.copytree(SOURCE, package, ignore=shutil.ignore_patterns("__pycache__"))
    about = folder / f"sexton-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: sexton\nVersion: {version}\n")
    return package


def _script() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return ScriptDirectory.from_config(config)
