"""Tokens of the service."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "tokens",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("scopes", sa.String(64), nullable=False),
        sa.Column("rater", sa.String(128)),
        sa.Column("created_utc", sa.String(32), nullable=False),
        sa.Column("revoked_utc", sa.String(32)),
    )


def downgrade() -> None:
    """Drop the table: every token ends."""
    op.drop_table("tokens")
